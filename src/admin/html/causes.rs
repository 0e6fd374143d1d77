//! Why requests failed: a paragraph for each cause of a route, with what to do. Imports nothing of ours but its neighbors.

use std::fmt::Write as _;

use super::super::report::Cause;
use super::{Text, grouped, put};

/// The latest first.
pub(super) fn list(causes: &[Cause]) -> String {
    if causes.is_empty() {
        return "<p class=\"empty\">Nothing that has a name. Causes of failed requests are counted here, with what to do.</p>"
            .to_owned();
    }
    let mut text = String::from("<ul class=\"causes\">");
    for cause in causes {
        item(&mut text, cause);
    }
    text.push_str("</ul>");
    text
}

fn item(text: &mut String, cause: &Cause) {
    let Cause { route, code, is, fix, evidence, or, times, first, last } = cause;
    let count = if *times == 1 { "once".to_owned() } else { format!("{} times", grouped(*times)) };
    put!(text, "<li data-key=\"{} {code}\"><h3><code>{code}</code>", Text(route));
    put!(text, "<span>route <b>{}</b></span><span><b>{count}</b>, last ", Text(route));
    put!(text, "<time datetime=\"{last}\" data-clock>{}</time></span>", last.clock());
    if *times > 1 {
        put!(text, "<span>first <time datetime=\"{first}\" data-clock>{}</time></span>", first.clock());
    }
    put!(text, "</h3><p class=\"likely\">{}.</p>", Text(is));
    put!(text, "<p class=\"likely\"><b>Fix:</b> {}.</p>", Text(fix));
    if let Some(evidence) = evidence {
        put!(text, "<p class=\"seen\">Seen: {}</p>", Text(evidence));
    }
    if !or.is_empty() {
        let codes: Vec<String> = or.iter().map(|code| format!("<code>{code}</code>")).collect();
        put!(text, "<p class=\"seen\">It could also be {}.</p>", codes.join(", "));
    }
    text.push_str("</li>");
}
