//! How the status page travels: its files, which are part of the program, and the fields that keep it to itself.
//!
//! Its policy lets it load and ask nothing but this port; nothing inline runs, so that a foreign text that slipped through
//! the escaping would still be text. Imports nothing of ours but its neighbors.

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, Uri};
use http_body_util::Full;

use super::live::{Live, Said};
use super::report::Report;

const STYLE: &str = include_str!("assets/page.css");
const SCRIPT: &str = include_str!("assets/page.js");
const ICON: &str = include_str!("assets/icon.svg");

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The page.
pub(super) fn html(page: String) -> Response<Said> {
    dressed("text/html; charset=utf-8", Said::Whole(Full::from(page)))
}

/// Its data.
pub(super) fn json(report: &Report) -> Response<Said> {
    // Numbers, texts and lists of them: there is nothing in it that JSON cannot say.
    let text = serde_json::to_string_pretty(report).unwrap_or_default();
    dressed("application/json", Said::Whole(Full::from(text + "\n")))
}

/// Its events.
pub(super) fn events(live: Live) -> Response<Said> {
    dressed("text/event-stream", Said::Live(Box::new(live)))
}

/// One of its files.
pub(super) fn asset(path: &str) -> Option<Response<Said>> {
    let (kind, text) = match path {
        "/page.css" => ("text/css; charset=utf-8", STYLE),
        "/page.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "/icon.svg" => ("image/svg+xml", ICON),
        _ => return None,
    };
    Some(dressed(kind, Said::Whole(Full::from(text))))
}

/// What browsers are to do, and not to do, with any of this.
fn dressed(kind: &'static str, body: Said) -> Response<Said> {
    let mut answer = Response::new(body);
    for (name, value) in [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    ] {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// A parameter of the query, as it stands.
pub(super) fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// Takes out what a browser says of a request that this very port's page made, so that the guard, which lets no web page
/// in, lets that one in. The browser names its origin: the same as the Host that it asks, which the guard looks at next and
/// which can only be a loopback name, so no other page is the same (docs/rules.md 1.7).
pub(super) fn admit_own(parts: &mut Parts) {
    let one = |name: HeaderName| {
        let mut lines = parts.headers.get_all(name).iter();
        (lines.next().map(HeaderValue::as_bytes), lines.next().is_some())
    };
    let ((site, more_sites), (origin, more_origins)) = (one(SEC_FETCH_SITE), one(header::ORIGIN));
    let (host, more_hosts) = one(header::HOST);
    let is_own = |origin: &[u8]| origin.strip_prefix(b"http://").is_some_and(|origin| Some(origin) == host);
    let same_site = site.is_none_or(|site| site == b"same-origin");
    let is_sure = !more_sites && !more_origins && !more_hosts && parts.uri.authority().is_none();
    if is_sure && same_site && origin.is_none_or(is_own) {
        parts.headers.remove(SEC_FETCH_SITE);
        parts.headers.remove(header::ORIGIN);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// Whether the guard would see no web page behind a request with these fields.
    fn is_admitted(fields: &[(&str, &str)]) -> bool {
        let mut request = Request::put("/api/log-level");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        admit_own(&mut parts);
        !parts.headers.contains_key("origin") && !parts.headers.contains_key("sec-fetch-site")
    }

    #[test]
    fn its_own_page_may_ask_and_no_other() {
        let host = ("host", "127.0.0.1:9901");
        let same = ("sec-fetch-site", "same-origin");
        assert!(is_admitted(&[host]));
        assert!(is_admitted(&[host, same]));
        assert!(is_admitted(&[host, same, ("origin", "http://127.0.0.1:9901")]));
        assert!(is_admitted(&[host, ("origin", "http://127.0.0.1:9901")]));
        for others in [
            &[host, ("sec-fetch-site", "same-site")] as &[_],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "none"), ("origin", "http://127.0.0.1:9901")],
            &[host, same, same],
            &[host, same, ("origin", "null")],
            &[host, same, ("origin", "http://127.0.0.1:9902")],
            &[host, same, ("origin", "http://127.0.0.1")],
            &[host, same, ("origin", "https://127.0.0.1:9901")],
            &[host, same, ("origin", "http://localhost:9901")],
            &[host, same, ("origin", "http://127.0.0.1:9901"), ("origin", "http://evil.example")],
            &[host, ("host", "evil.example"), same, ("origin", "http://evil.example")],
            &[same, ("origin", "http://127.0.0.1:9901")],
        ] {
            assert!(!is_admitted(others), "{others:?}");
        }
    }

    #[test]
    fn parameters_are_found_by_their_whole_name() {
        let uri: Uri = "/x?xlevel=a&level=info,hyper=warn&level=b".parse().unwrap();
        assert_eq!(parameter(&uri, "level"), Some("info,hyper=warn"));
        assert_eq!(parameter(&uri, "lev"), None);
    }

    #[test]
    fn the_files_ask_nobody_else_and_hold_nothing_inline() {
        for text in [STYLE, SCRIPT] {
            assert!(!text.contains("//") || !text.contains("http"), "a foreign address");
            assert!(!text.contains("eval(") && !text.contains(".style"), "the policy would refuse it");
        }
    }
}
