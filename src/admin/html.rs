//! The status page, written by the server: whole at first, and then part by part as it changes.
//!
//! Everything that is not fixed text goes through [`Text`], which escapes it. No style or script stands in the page: the
//! policy that it is served with would refuse them. Imports `telemetry`.

mod causes;
mod credentials;
mod requests;
mod routes;
mod spark;

use std::fmt::{self, Write as _};

use super::report::{Report, Traffic};

/// Appends to a page, which cannot fail.
macro_rules! put {
    ($page:expr, $($text:tt)*) => {{
        let _infallible = write!($page, $($text)*);
    }};
}
use put;

/// The parts of the page that change as time goes by, each with the id of its element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts(pub(super) [(&'static str, String); 6]);

/// Foreign text, as it may stand between tags and in quoted attributes.
#[derive(Clone, Copy, Debug)]
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            // Neither breaks the page; neither is to be seen on it.
            character if character.is_control() => f.write_char('\u{fffd}'),
            character => f.write_char(character),
        })
    }
}

/// The whole page. `token` is where its events go on.
pub(super) fn page(report: &Report, token: &str) -> String {
    let Parts([(_, state), (_, trouble), (_, tiles), (_, routes), (_, credentials), (_, causes)]) = parts(report);
    let mut page = String::with_capacity(64 * 1024);
    put!(
        page,
        "{HEAD}<body data-token=\"{}\">\n<header>{LOGO}<div id=\"state\">{state}</div>{LINK}</header>\n<main>",
        Text(token)
    );
    put!(page, "<div id=\"trouble\" aria-live=\"polite\">{trouble}</div>\n");
    put!(page, "<section id=\"tiles\" aria-label=\"Now\">{tiles}</section>\n");
    put!(page, "<section><h2>Routes</h2><div id=\"routes\">{routes}</div></section>\n");
    put!(page, "<section><h2>Credentials</h2><div id=\"credentials\">{credentials}</div></section>\n");
    put!(page, "<section><h2>What went wrong</h2><div id=\"causes\">{causes}</div></section>\n");
    put!(page, "<section>{}<ol id=\"requests\" aria-label=\"Last requests, newest first\">", toolbar(report));
    for request in &report.requests {
        page.push_str(&requests::item(request, &report.routes));
    }
    put!(page, "</ol>{EMPTY}</section>\n</main>\n<footer>{FOOT}</footer>\n</body>\n</html>\n");
    page
}

/// What of the page may have changed since it was written.
pub(super) fn parts(report: &Report) -> Parts {
    Parts([
        ("state", state(report)),
        ("trouble", trouble(report)),
        ("tiles", tiles(report)),
        ("routes", routes::table(report)),
        ("credentials", credentials::cards(&report.credentials, report.token_cache.as_ref(), report.now)),
        ("causes", causes::list(&report.causes)),
    ])
}

/// The newest requests as items of the list, newest first.
pub(super) fn items(report: &Report) -> Vec<String> {
    report.requests.iter().map(|request| requests::item(request, &report.routes)).collect()
}

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>countersign</title>\n\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
    <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"icon.svg\" type=\"image/svg+xml\">\n\
    <link rel=\"stylesheet\" href=\"page.css\">\n<script src=\"page.js\" defer></script>\n\
    <noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n</head>\n";
const LOGO: &str = "<h1><svg viewBox=\"0 0 24 24\" aria-hidden=\"true\"><path d=\"M3 6.5 12 2l9 4.5v6c0 5-3.8 8.2-9 9.5\
    -5.2-1.3-9-4.5-9-9.5z\"/><path class=\"tick\" d=\"m7.5 12 3.2 3.2 5.8-6.4\"/></svg>countersign</h1>";
const LINK: &str = "<p id=\"link\" role=\"status\" data-link=\"static\">every 5 s</p>";
const EMPTY: &str = "<p class=\"empty\" id=\"none-yet\">No request yet. Send one, and it shows up here within a second.</p>\
    <p class=\"empty\" id=\"none-match\" hidden>None of the last requests matches the filter.</p>";
const FOOT: &str = "<a href=\"api/status\">JSON</a> <a href=\"metrics\">Metrics</a> <a href=\"readyz\">Readiness</a>\
    <span>The last 100 requests and five minutes are kept, in memory alone. Names of fields are shown, values never.</span>";

fn toolbar(report: &Report) -> String {
    let levels = ["error", "warn", "info", "debug", "trace"];
    let mut bar = String::from(
        "<div class=\"bar\"><h2>Last requests</h2><div class=\"tools\">\
         <input id=\"filter\" type=\"search\" placeholder=\"Filter: path, route, status, id…\" aria-label=\"Filter requests\" \
         autocomplete=\"off\" spellcheck=\"false\">\
         <select id=\"show\" aria-label=\"Which requests\"><option value=\"\">All</option>\
         <option value=\"troubled\">4xx, 5xx and broken</option><option value=\"failed\">5xx and broken</option></select>\
         <button id=\"pause\" type=\"button\" aria-pressed=\"false\">Pause</button>\
         <button id=\"newer\" type=\"button\" hidden></button>",
    );
    if let Some(level) = &report.log_level {
        bar.push_str("<label class=\"level\">Log <select id=\"level\">");
        if !levels.contains(&level.as_str()) {
            put!(bar, "<option selected value=\"\">{}</option>", Text(level));
        }
        for name in levels {
            put!(bar, "<option{}>{name}</option>", if name == level { " selected" } else { "" });
        }
        bar.push_str("</select></label>");
    }
    bar.push_str("</div></div>");
    bar
}

fn state(report: &Report) -> String {
    let words = match report.state {
        "ready" => "Ready",
        "starting" => "Waiting for the first credentials",
        _ => "Stopping",
    };
    let up = span(report.now.seconds_since(report.started));
    let mut text = format!(
        "<p class=\"pill {}\"><i></i>{words}</p><p class=\"facts\"><span>version <b>{}</b></span><span>up <b>{up}</b></span>",
        report.state, report.version
    );
    let config = &report.config;
    let age = span(report.now.seconds_since(config.since));
    put!(text, "<span>config <b>{}</b>, in use for <b>{age}</b></span></p>", config.generation);
    text
}

/// What somebody should look at, in a sentence each.
fn trouble(report: &Report) -> String {
    let mut text = String::new();
    if let Some(reason) = &report.config.refusal {
        let generation = report.config.generation;
        put!(text, "<li><b>The last change of the config was refused</b>; number {generation} stays.");
        put!(text, "<pre>{}</pre></li>", Text(reason));
    }
    for credential in report.credentials.iter().filter(|credential| credential.is_troubled()) {
        let what = match credential.state {
            "failing" => "cannot be refreshed; the one held is used while it lives",
            "used-on" => "has expired and is used on, since no other can be had",
            _ => "cannot be fetched; requests that need it get 503",
        };
        put!(text, "<li><b>Credential {}</b> {what}.</li>", Text(&credential.name));
    }
    if let Some(cache) = report.token_cache.as_ref().filter(|cache| cache.state != "in-use") {
        let what = match cache.state {
            "failing" => "fails; each sidecar fetches its tokens by itself until it is back",
            _ => "has an entry that cannot be read; it is written anew",
        };
        put!(text, "<li><b>The token cache {}</b> {what}.", Text(&cache.store));
        credentials::why(&mut text, cache.cause.as_deref(), cache.hint.as_deref());
        text.push_str("</li>");
    }
    for route in &report.routes {
        let recent = &route.traffic.recent;
        // A tenth of at least ten: one failure of a quiet route is to be seen in the list, and is no alarm.
        if recent.requests >= 10 && recent.failed * 10 >= recent.requests {
            let (failed, all) = (recent.failed, recent.requests);
            put!(
                text,
                "<li><b>Route {}</b>: {failed} of {all} requests failed in five minutes.</li>",
                Text(&route.name)
            );
        }
    }
    if text.is_empty() { text } else { format!("<ul>{text}</ul>") }
}

fn tiles(report: &Report) -> String {
    let Traffic { in_flight, requests, recent, per_second, median_ms, p95_ms, series, .. } = &report.total;
    let mut text = String::new();
    let mut tile = |name: &str, class: &str, value: &str, more: &str, chart: &str| {
        put!(text, "<div class=\"tile {class}\"><h3>{name}</h3><p class=\"big\">{value}</p><p>{more}</p>{chart}</div>");
    };
    let chart = spark::bars(series, "Requests in five minutes");
    tile(
        "Requests",
        "",
        &format!("{}<small>/s</small>", number(*per_second)),
        &format!("{} since the start", grouped(*requests)),
        &chart,
    );
    let class = if recent.failed > 0 {
        "failed"
    } else if recent.refused > 0 {
        "refused"
    } else {
        ""
    };
    let share = share(recent.refused + recent.failed, recent.requests);
    let more = format!("{} failed, {} refused in 5 min", grouped(recent.failed), grouped(recent.refused));
    tile("Errors", class, &share, &more, "");
    let more = format!("median {}", duration(*median_ms));
    tile("Latency, p95", "", &duration(*p95_ms), &more, &spark::line(series, "p95 in five minutes"));
    tile("In flight", "", &in_flight.to_string(), "requests not yet answered", "");
    let all = report.credentials.len();
    let good = report.credentials.iter().filter(|credential| credential.state == "valid").count();
    let class = if good < all { "failed" } else { "" };
    let value = if all == 0 { "none".to_owned() } else { format!("{good}<small> of {all}</small>") };
    tile("Credentials", class, &value, if all == 0 { "no route has an auth" } else { "valid and fresh" }, "");
    text
}

/// `1.2%`, or a dash where there is nothing to divide.
fn share(part: u64, all: u64) -> String {
    if all == 0 {
        return "–".to_owned();
    }
    let tenths = part * 1_000 / all;
    // What is there must not be rounded away.
    match tenths {
        0 if part > 0 => "&lt;0.1<small>%</small>".to_owned(),
        1_000 => "100<small>%</small>".to_owned(),
        tenths => format!("{}.{}<small>%</small>", tenths / 10, tenths % 10),
    }
}

/// Digits enough to see it move, and no more.
fn number(value: f64) -> String {
    match value {
        value if value < 0.05 => "0".to_owned(),
        value if value < 10.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// `12 345`, with a thin space that does not break.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let first = digits.len() % 3;
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && place % 3 == first {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// What is behind a failure: a paragraph for each line of a diagnosis.
fn likely(text: &mut String, diagnosis: Option<&str>) {
    for line in diagnosis.into_iter().flat_map(str::lines) {
        put!(text, "<p class=\"likely\">{}</p>", Text(line));
    }
}

fn duration(milliseconds: Option<f64>) -> String {
    match milliseconds {
        None => "–".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}<small> ms</small>"),
        Some(ms) if ms < 1_000.0 => format!("{ms:.0}<small> ms</small>"),
        Some(ms) => format!("{:.1}<small> s</small>", ms / 1_000.0),
    }
}

/// `42 s`, `12 min`, `3 h 20 min`, `4 d 3 h`.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_text() {
        let text = Text("<script>alert('\u{1b}[2J\n')</script>\"&").to_string();
        assert_eq!(text, "&lt;script&gt;alert(&#39;\u{fffd}[2J\u{fffd}&#39;)&lt;/script&gt;&quot;&amp;");
    }

    #[test]
    fn numbers_are_short_and_never_hide_a_failure() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]);
        assert_eq!([0.0, 0.04, 0.5, 9.99, 1234.5].map(number), ["0", "0", "0.5", "10.0", "1234"]);
        assert_eq!(share(1, 100_000), "&lt;0.1<small>%</small>");
        assert_eq!([share(0, 0), share(0, 5), share(1, 3)], ["–", "0.0<small>%</small>", "33.3<small>%</small>"]);
        assert_eq!([0, 119, 120, 7_260, 200_000].map(span), ["0 s", "119 s", "2 min", "2 h 1 min", "2 d 7 h"]);
    }
}
