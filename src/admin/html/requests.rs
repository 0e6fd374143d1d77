//! The list of requests: a line each, and behind it what happened. Imports nothing of ours but its neighbors.

use std::fmt::Write as _;

use super::super::report::{Request, Route};
use super::{Text, duration, grouped, likely, put, spark};

/// One item of the list. `routes` tell what a route itself adds.
pub(super) fn item(request: &Request, routes: &[Route]) -> String {
    let Request { number, id, ended, method, path, route, status, outcome, verdict, .. } = request;
    let method = method.as_deref().unwrap_or("–");
    let status = status.map_or_else(|| "–".to_owned(), |status| status.to_string());
    let name = route.as_deref().unwrap_or("no route");
    let theirs = request.aws_request_id.as_deref().unwrap_or_default();
    let searched = format!("{method} {path} {name} {status} {outcome} {id} {theirs}").to_lowercase();
    let mut text = format!(
        "<li class=\"{verdict}\" data-number=\"{number}\" data-text=\"{}\"><details><summary>\
         <time datetime=\"{ended}\" data-clock>{}</time><span class=\"method\">{}</span><span class=\"status\">{status}</span>",
        Text(&searched),
        ended.clock(),
        Text(method),
    );
    let shown = match path.as_str() {
        "" if request.method.is_none() => "<i>no request line</i>".to_owned(),
        "" => "<i>not kept</i>".to_owned(),
        path => Text(path).to_string(),
    };
    put!(text, "<span class=\"path\"><span>{shown}</span></span><span class=\"route\">{}</span>", Text(name));
    put!(text, "<span class=\"outcome\">{outcome}</span><span class=\"ms\">{}</span>", duration(Some(request.ms)));
    put!(text, "{}</summary><div class=\"more\">", spark::parts(&request.phases_ms.named()));
    why(&mut text, request);
    phases(&mut text, request);
    facts(&mut text, request, routes);
    text.push_str("</div></details></li>");
    text
}

/// The end in words, where to look, what is behind it most likely, and the cause.
fn why(text: &mut String, request: &Request) {
    put!(text, "<p class=\"why\"><b>{}.</b>", request.title);
    if let Some(meaning) = request.meaning {
        put!(text, " {meaning}");
    }
    text.push_str("</p>");
    likely(text, request.hint.as_deref());
    if let Some(cause) = &request.cause {
        put!(text, "<pre>{}</pre>", Text(cause));
    }
}

fn phases(text: &mut String, request: &Request) {
    text.push_str("<ul class=\"legend\">");
    for (name, part) in request.phases_ms.named() {
        let label = match name {
            "receive" => "receive and check",
            "credential" => "credential, signature",
            "connect" => "connect",
            "first_byte" => "until the first byte",
            _ => "body",
        };
        let class = if part > 0.0 { name } else { "unused" };
        let spent = duration((part > 0.0).then_some(part));
        put!(text, "<li class=\"{class}\"><i></i>{label} <b>{spent}</b></li>");
    }
    text.push_str("</ul>");
}

fn facts(text: &mut String, request: &Request, routes: &[Route]) {
    text.push_str("<dl>");
    let mut fact = |name: &str, value: &str| put!(text, "<dt>{name}</dt><dd>{value}</dd>");
    if request.sends > 0 {
        added(&mut fact, request, routes);
    }
    fact("Request id", &code(&request.id));
    if let Some(theirs) = &request.aws_request_id {
        fact("API Gateway's id", &code(theirs));
    }
    if let Some(extended) = &request.aws_extended_id {
        fact("Its extended id", &code(extended));
    }
    if let Some(fault) = request.fault {
        fact(
            "Fault",
            match fault {
                "client" => "the caller's",
                "credentials" => "the credential source's",
                "upstream" => "the upstream's, or of the way to it",
                _ => "countersign's, or of its limits",
            },
        );
    }
    if let Some(connection) = request.connection {
        let times = if request.sends > 1 { format!("{} times, the last", request.sends) } else { "once,".to_owned() };
        fact("Sent", &format!("{times} on a connection that was {connection}"));
    }
    fact("Bodies", &format!("{} bytes in, {} bytes out", grouped(request.received), grouped(request.sent)));
    text.push_str("</dl>");
}

/// What was added to the request: names alone.
fn added(fact: &mut impl FnMut(&str, &str), request: &Request, routes: &[Route]) {
    let list = |names: &[String]| names.iter().map(|name| code(name)).collect::<Vec<_>>().join(" ");
    fact("Added by the auth", &if request.added.is_empty() { "nothing".to_owned() } else { list(&request.added) });
    let Some(route) = routes.iter().find(|route| Some(&route.name) == request.route.as_ref()) else { return };
    if !route.sets.is_empty() {
        fact("Set by the route", &list(&route.sets));
    }
    if !route.removes.is_empty() {
        fact("Removed by the route", &list(&route.removes));
    }
}

fn code(value: &str) -> String {
    format!("<code>{}</code>", Text(value))
}
