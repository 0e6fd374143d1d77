//! The cards of credentials. Imports nothing of ours but its neighbors.

use std::fmt::Write as _;

use super::super::report::{Credential, TokenCache};
use super::super::time::Stamp;
use super::{Text, likely, put, span, spark};

/// One card a credential.
pub(super) fn cards(credentials: &[Credential], cache: Option<&TokenCache>, now: Stamp) -> String {
    if credentials.is_empty() {
        return "<p class=\"empty\">No route has an auth, so there is no credential to keep fresh.</p>".to_owned();
    }
    let mut text = String::from("<ul class=\"cards\">");
    for credential in credentials {
        card(&mut text, credential, now);
    }
    text.push_str("</ul>");
    if let Some(TokenCache { store, tokens, .. }) = cache {
        let count = |way: &str| tokens.get(way).copied().unwrap_or_default();
        put!(
            text,
            "<p class=\"kind\">Tokens of clients are shared through <code>{}</code>: {} were found there, {} fetched for \
             all, {} fetched without it.</p>",
            Text(store),
            count("found") + count("waited"),
            count("fetched"),
            count("alone") + count("impatient")
        );
    }
    text
}

fn card(text: &mut String, credential: &Credential, now: Stamp) {
    let Credential { name, kind, principal, scopes, state, fetched, expires, life_seconds, .. } = credential;
    let words = match *state {
        "valid" => "valid",
        "failing" => "valid, not renewed",
        "used-on" => "expired, used on",
        "none" => "none",
        _ => "first try",
    };
    put!(
        text,
        "<li class=\"card {state}\" data-key=\"{0}\"><h3>{0}<span class=\"badge\"><i></i>{words}</span></h3>",
        Text(name)
    );
    put!(text, "<p class=\"kind\">{}</p>", Text(kind));
    match (expires, life_seconds) {
        (Some(end), life) => {
            let left = end.seconds_since(now);
            let whole = life.unwrap_or(left).max(1);
            let part = real(left) / real(whole);
            let words = if left == 0 { "ended".to_owned() } else { format!("ends in <b>{}</b>", span(left)) };
            put!(
                text,
                "<p class=\"life\"><span>{words}</span><time datetime=\"{end}\" data-clock></time></p>{}",
                spark::gauge(part, "Life left")
            );
        }
        (None, _) if *state == "valid" => text.push_str("<p class=\"life\"><b>has no end</b></p>"),
        (None, _) => {}
    }
    text.push_str("<dl>");
    if let Some(principal) = principal {
        put!(text, "<dt>Principal</dt><dd><code>{}</code></dd>", Text(principal));
    }
    if let Some(scopes) = scopes {
        put!(text, "<dt>Scopes</dt><dd><code>{}</code></dd>", Text(scopes));
    }
    if let Some(fetched) = fetched {
        put!(text, "<dt>Fetched</dt><dd>{} ago</dd>", span(now.seconds_since(*fetched)));
    }
    put!(text, "<dt>Tries</dt><dd>{} good, {} failed</dd></dl>", credential.fetches, credential.failures);
    if let Some(cause) = &credential.cause {
        put!(text, "<div class=\"why\"><p><b>The last try failed.</b></p>");
        why(text, Some(cause), credential.hint.as_deref());
        if let Some(next) = credential.next_try {
            let wait = next.seconds_since(now);
            let when = if wait == 0 { "when it is needed".to_owned() } else { format!("in {}", span(wait)) };
            put!(text, "<p>Next try {when}.</p>");
        }
        text.push_str("</div>");
    }
    text.push_str("</li>");
}

/// What is probably behind a failure, and its own words.
pub(super) fn why(text: &mut String, cause: Option<&str>, hint: Option<&str>) {
    likely(text, hint);
    if let Some(cause) = cause {
        put!(text, "<pre>{}</pre>", Text(cause));
    }
}

fn real(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}
