//! What an answer says of its own place, in the caller's terms: `Location` and, where the route asks for it, cookies.
//!
//! Only what surely means a path under this route is rewritten, and always to a path: whatever name the caller has for
//! us, it stays with us. All else passes untouched: other hosts, `//host`, paths of other routes, and what cannot be
//! read (docs/rules.md 2.5). Imports `message`, `route`.

use http::HeaderMap;
use http::header::{CONTENT_LOCATION, HeaderValue, LOCATION, SET_COOKIE};
use http::uri::{Authority, PathAndQuery, Scheme};

use crate::message::target::Target;
use crate::route::{Cookies, Origin, Route};

/// Rewrites the fields of an answer that came through `route`.
pub(super) fn fields(headers: &mut HeaderMap, route: &Route) {
    let (locations, cookies) = (route.rewrite_location, route.cookies == Cookies::Local);
    if !locations && !cookies {
        return;
    }
    for (name, value) in headers.iter_mut() {
        let rewritten = match value.to_str() {
            Ok(text) if locations && (name == LOCATION || name == CONTENT_LOCATION) => location(text, route),
            Ok(text) if cookies && name == SET_COOKIE => Some(cookie(text, route)),
            Ok(_) | Err(_) => None,
        };
        if let Some(Ok(rewritten)) = rewritten.map(HeaderValue::try_from) {
            *value = rewritten;
        }
    }
}

/// The local form of a reference to `route`'s upstream: a path of the route, with query and fragment. `None` for what does
/// not surely lead there, which stays as it is.
pub fn location(reference: &str, route: &Route) -> Option<String> {
    let (reference, fragment) = cut(reference, '#');
    let (path, query) = cut(path_of(reference, &route.upstream.origin)?, '?');
    let path = if path.is_empty() { "/" } else { path };
    // The rules for requests: what could leave the route there could leave it here.
    Target::parse(&PathAndQuery::try_from(format!("{path}{query}")).ok()?).ok()?;
    let local = local_path(path, route)?;
    Some(format!("{local}{query}{fragment}"))
}

/// Before `mark`, and from there on.
fn cut(text: &str, mark: char) -> (&str, &str) {
    text.split_at(text.find(mark).unwrap_or(text.len()))
}

/// Path and query of a reference to `origin`, absolute or from the root.
fn path_of<'a>(reference: &'a str, origin: &Origin) -> Option<&'a str> {
    if reference.starts_with('/') {
        return (!reference.starts_with("//")).then_some(reference);
    }
    let (scheme, rest) = reference.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let same = scheme.eq_ignore_ascii_case(origin.scheme.as_str()) && is_same(authority, origin);
    same.then_some(path)
}

/// Whether `text` is the origin's host and port, however written.
fn is_same(text: &str, origin: &Origin) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let default = if origin.scheme == Scheme::HTTPS { 443 } else { 80 };
    let port = |authority: &Authority| authority.port().map_or(default, |port| port.as_u16());
    !text.contains('@')
        // An empty port, or one that is no number, is none to the parser.
        && (authority.port().is_some() || text.len() == authority.host().len())
        && authority.host().eq_ignore_ascii_case(origin.authority.host())
        && port(&authority) == port(&origin.authority)
}

/// What is left of `path` behind `prefix`, if that is a prefix of whole segments (`""` is one of every path).
fn behind<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The route's own path as a prefix.
fn prefix(route: &Route) -> &str {
    if route.path == "/" { "" } else { &route.path }
}

/// The path under which this route leads to the upstream's `path`.
fn local_path(path: &str, route: &Route) -> Option<String> {
    let rest = behind(path, &route.upstream.base_path)?;
    let local = if route.strip_path { format!("{}{rest}", prefix(route)) } else { rest.to_owned() };
    behind(&local, prefix(route))?;
    match local.as_str() {
        "" => Some("/".to_owned()),
        // It would read as a host name.
        _ if local.starts_with("//") => None,
        _ => Some(local),
    }
}

/// A `Set-Cookie` for a caller that knows this route instead of its upstream. Without TLS here no cookie is secure, and
/// `SameSite=None` and `Partitioned` want secure ones.
fn cookie(text: &str, route: &Route) -> String {
    let mut attributes = text.split(';');
    let mut local = attributes.next().unwrap_or_default().to_owned();
    for attribute in attributes {
        let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "domain" | "secure" | "partitioned" => {}
            "samesite" if value.eq_ignore_ascii_case("none") => local.push_str("; SameSite=Lax"),
            "path" if value.starts_with('/') => {
                local.push_str("; Path=");
                local.push_str(&cookie_path(value, route));
            }
            _ => {
                local.push(';');
                local.push_str(attribute);
            }
        }
    }
    local
}

/// Where the caller has to send a cookie of the upstream's `path` through this route: never beyond it, for there are
/// other upstreams.
fn cookie_path(path: &str, route: &Route) -> String {
    let base = &route.upstream.base_path;
    let whole = path.strip_suffix('/').unwrap_or(path);
    if behind(base, whole).is_some() && whole.len() < base.len() || path == "/" {
        // The upstream means more than this route leads to.
        return route.path.clone();
    }
    if let Some(local) = local_path(path, route) {
        return local;
    }
    let beyond = behind(path, base).filter(|_| !route.strip_path);
    if beyond.is_some_and(|rest| behind(&route.path, rest.strip_suffix('/').unwrap_or(rest)).is_some()) {
        return route.path.clone();
    }
    // A part of the upstream that this route does not lead to: it must not become another route's.
    format!("{}{path}", prefix(route))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::route::upstream::HostPort;
    use crate::route::{HeaderEdits, Upstream};
    use crate::tls::ClientSettings;

    const HOST: &str = "abc.execute-api.eu-west-1.amazonaws.com";

    fn route(path: &str, strip_path: bool, base_path: &str) -> Route {
        let second = Duration::from_secs(1);
        let origin = Origin {
            scheme: Scheme::HTTPS,
            authority: Authority::from_static(HOST),
            dial: HostPort { host: HOST.into(), port: 443 },
            via: None,
            server_name: HOST.into(),
            tls: ClientSettings::default(),
            dns_timeout: second,
            connect_timeout: second,
            ping_interval: second,
            ping_timeout: second,
            tls_timeout: second,
            pool_idle_timeout: second,
            max_connection_age: second,
            answers: crate::route::upstream::Answers::default(),
        };
        Route {
            name: "r".into(),
            listen: None,
            host: None,
            path: path.into(),
            methods: None,
            upstream: Upstream { origin: origin.into(), base_path: base_path.into() },
            strip_path,
            scheme: None,
            request_headers: HeaderEdits::default(),
            allow_encoded_slash: false,
            websocket: false,
            rewrite_location: true,
            cookies: Cookies::Local,
            max_in_flight: None,
            max_body: 0,
            replay_buffer: 0,
            response_timeout: second,
            body_idle_timeout: second,
            upload_idle_timeout: second,
            credential_timeout: second,
            idempotency_keys: crate::route::IdempotencyKeys::Ignored,
        }
    }

    fn local(route: &Route, reference: &str) -> Option<String> {
        location(&reference.replace("HOST", HOST), route)
    }

    #[test]
    fn references_to_the_same_upstream_lead_back_here() {
        let orders = route("/orders", true, "/prod");
        for (reference, wanted) in [
            ("https://HOST/prod/42", "/orders/42"),
            ("https://HOST/prod/42?a=b&c=/d#e?f", "/orders/42?a=b&c=/d#e?f"),
            ("https://HOST/prod", "/orders"),
            ("https://HOST/prod/", "/orders/"),
            ("https://HOST/prod?a", "/orders?a"),
            ("HTTPS://ABC.EXECUTE-API.eu-west-1.amazonaws.com/prod/42", "/orders/42"),
            ("https://HOST:443/prod/42", "/orders/42"),
            ("/prod/42", "/orders/42"),
            ("/prod/a%20b//c", "/orders/a%20b//c"),
        ] {
            assert_eq!(local(&orders, reference).as_deref(), Some(wanted), "{reference}");
        }
        let whole = route("/", false, "");
        assert_eq!(local(&whole, "https://HOST").as_deref(), Some("/"));
        assert_eq!(local(&whole, "https://HOST?a#b").as_deref(), Some("/?a#b"));
        assert_eq!(local(&whole, "/x").as_deref(), Some("/x"));
        let kept = route("/orders", false, "/prod");
        assert_eq!(local(&kept, "/prod/orders/42").as_deref(), Some("/orders/42"));
        assert_eq!(local(&kept, "/prod/orders").as_deref(), Some("/orders"));
        assert_eq!(local(&route("/", false, "/prod"), "https://HOST/prod").as_deref(), Some("/"));
    }

    #[test]
    fn all_else_is_left_alone() {
        let orders = route("/orders", true, "/prod");
        for reference in [
            "https://evil.example/prod/42",
            "http://HOST/prod/42",
            "https://HOST:8443/prod/42",
            "https://HOST:/prod/42",
            "https://HOST.evil.example/prod/42",
            "https://user@HOST/prod/42",
            "https://HOST@evil.example/prod/42",
            "https:///prod/42",
            "https:/prod/42",
            "//HOST/prod/42",
            "///HOST/prod",
            "/\\evil.example/prod",
            "\\\\HOST/prod/42",
            "/production/42",
            "/other/42",
            "/",
            "https://HOST",
            "42",
            "../42",
            "?a=b",
            "#top",
            "",
            "/prod/../admin",
            "/prod/%2e%2e/admin",
            "/prod/a b",
            "/prod/%zz",
            "/prod/é",
            "mailto:a@HOST",
            "javascript:alert(1)",
        ] {
            assert_eq!(local(&orders, reference), None, "{reference}");
        }
        // Under the upstream's base, but another route's here.
        assert_eq!(local(&route("/orders", false, "/prod"), "/prod/customers/1"), None);
        // What would become a host name.
        assert_eq!(local(&route("/", false, "/prod"), "/prod//evil.example"), None);
        assert_eq!(local(&route("/", true, "/prod"), "https://HOST/prod//evil.example"), None);
    }

    #[test]
    fn cookies_lose_what_holds_elsewhere_and_nothing_else() {
        let orders = route("/orders", true, "/prod");
        for (theirs, ours) in [
            ("a=b", "a=b"),
            ("a=\"b; Secure", "a=\"b"),
            ("a=b; Domain=x.example; Path=/prod; Secure; HttpOnly", "a=b; Path=/orders; HttpOnly"),
            ("a=b;domain=x;PATH=/prod/x/;Max-Age=3;  Priority=High", "a=b; Path=/orders/x/;Max-Age=3;  Priority=High"),
            ("a=b; SameSite=None; Secure; Partitioned", "a=b; SameSite=Lax"),
            ("a=b; SameSite=Strict", "a=b; SameSite=Strict"),
            ("a=b; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "a=b; Expires=Wed, 21 Oct 2026 07:28:00 GMT"),
            ("a=b; Path=/", "a=b; Path=/orders"),
            ("a=b; Path=relative", "a=b; Path=relative"),
            ("a=b; Path=", "a=b; Path="),
            ("domain=secure; Secure", "domain=secure"),
            ("", ""),
        ] {
            assert_eq!(cookie(theirs, &orders), ours, "{theirs}");
        }
    }

    #[test]
    fn a_cookie_stays_within_its_route() {
        let stripped = route("/orders", true, "/a/b");
        let kept = route("/orders", false, "/a");
        let whole = route("/", false, "");
        for (route, theirs, ours) in [
            (&stripped, "/a", "/orders"),
            (&stripped, "/a/", "/orders"),
            (&stripped, "/a/b", "/orders"),
            (&stripped, "/a/b/c", "/orders/c"),
            (&stripped, "/a/bc", "/orders/a/bc"),
            (&kept, "/", "/orders"),
            (&kept, "/a", "/orders"),
            (&kept, "/a/orders", "/orders"),
            (&kept, "/a/orders/1", "/orders/1"),
            (&kept, "/a/customers", "/orders/a/customers"),
            (&whole, "/", "/"),
            (&whole, "/x", "/x"),
        ] {
            assert_eq!(cookie_path(theirs, route), ours, "{theirs}");
        }
    }
}
