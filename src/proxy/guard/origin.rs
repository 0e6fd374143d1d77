//! Web pages: which may call, and what a browser is told for them to read the answers.
//!
//! A page shows itself by `Origin` or `Sec-Fetch-Site` (docs/rules.md 1.7, 2.1). All are refused but those of
//! `allowed_origins`, which are compared byte for byte: a browser writes an origin in one way only. Imports `message`.

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::message::fields;
use crate::proxy::outcome::ProxyError;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
/// Seconds for which a browser need not ask again. Chromium keeps an answer for two hours at most; ten minutes let a
/// changed config take effect.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The origins whose pages may call.
#[derive(Clone, Debug, Default)]
pub struct AllowedOrigins(Vec<HeaderValue>);

impl AllowedOrigins {
    /// These, each as a browser writes it.
    pub fn new(origins: &[HeaderValue]) -> Self {
        Self(origins.to_vec())
    }

    /// The one origin of a request, if its pages may call.
    pub fn listed(&self, headers: &HeaderMap) -> Option<&HeaderValue> {
        let mut lines = headers.get_all(header::ORIGIN).iter();
        let (Some(origin), None) = (lines.next(), lines.next()) else { return None };
        self.0.iter().find(|listed| *listed == origin)
    }

    /// Refuses what a page sent that may not call.
    pub(super) fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), ProxyError> {
        let listed = self.listed(headers).is_some();
        if headers.contains_key(header::ORIGIN) && !listed {
            return Err(ProxyError::WebPage("Origin"));
        }
        let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
        match (sites.next().map(HeaderValue::as_bytes), sites.next()) {
            (None, _) => Ok(()),
            (Some(b"same-origin" | b"same-site" | b"cross-site" | b"none"), None) if listed => Ok(()),
            // Typed into the address bar, or a bookmark: nobody's page asked for it, and it changes nothing.
            (Some(b"none"), None) if matches!(*method, Method::GET | Method::HEAD) => Ok(()),
            _ => Err(ProxyError::WebPage("Sec-Fetch-Site")),
        }
    }

    /// The method that a browser asks leave for, if this is such a question (Fetch, "CORS-preflight request"). Holds
    /// only for a request that [`AllowedOrigins::check`] let pass.
    pub(super) fn asked(method: &Method, headers: &HeaderMap) -> Option<Method> {
        if *method != Method::OPTIONS || !headers.contains_key(header::ORIGIN) {
            return None;
        }
        headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.to_str().ok()?.parse().ok()
    }

    /// Adds to an answer what lets a page of `origin` read it, and no other.
    pub fn dress(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        if self.0.is_empty() {
            return;
        }
        // Also where nobody's page asked: a cache must not keep that answer for one.
        if !fields::lists(headers, &header::VARY, "origin") && !fields::lists(headers, &header::VARY, "*") {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        }
    }
}

/// What a browser is told about a route that takes `methods`, besides what every answer tells.
pub fn leave(asked: &HeaderMap, methods: &[Method]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if let Ok(methods) = HeaderValue::try_from(methods.join(", ")) {
        fields.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Some(names) = asked_names(asked).and_then(|names| HeaderValue::try_from(names).ok()) {
        fields.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    if asked.get(REQUEST_PRIVATE_NETWORK).is_some_and(|value| value == "true") {
        fields.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    fields.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    fields
}

/// The names of fields that a page wants to send, if that is what they are.
fn asked_names(asked: &HeaderMap) -> Option<String> {
    let mut names: Vec<HeaderName> = Vec::new();
    for line in asked.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        for name in line.to_str().ok()?.split(',') {
            names.push(name.trim().parse().ok()?);
        }
    }
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn origins() -> AllowedOrigins {
        AllowedOrigins::new(&[HeaderValue::from_static("http://localhost:3000")])
    }

    #[test]
    fn an_origin_is_compared_whole() {
        let passes = |lines: &[(&str, &str)]| origins().check(&Method::POST, &map(lines)).is_ok();
        assert!(passes(&[("origin", "http://localhost:3000")]));
        for site in ["same-origin", "same-site", "cross-site", "none"] {
            assert!(passes(&[("origin", "http://localhost:3000"), ("sec-fetch-site", site)]), "{site}");
        }
        for origin in [
            "http://localhost:3000.evil.test",
            "http://localhost:30000",
            "http://localhost:300",
            "http://LOCALHOST:3000",
            "http://localhost:3000/",
            "https://localhost:3000",
            "http://127.0.0.1:3000",
            "http://localhost",
            "null",
            "",
        ] {
            assert!(!passes(&[("origin", origin)]), "{origin}");
        }
        let listed = ("origin", "http://localhost:3000");
        assert!(!passes(&[listed, listed]));
        assert!(!passes(&[listed, ("sec-fetch-site", "new")]));
        assert!(!passes(&[listed, ("sec-fetch-site", "none"), ("sec-fetch-site", "none")]));
        assert!(!passes(&[("sec-fetch-site", "same-site")]), "a page's image says no origin");
    }

    #[test]
    fn leave_names_what_was_asked_for() {
        let asked = map(&[("access-control-request-headers", "X-Team, content-type")]);
        let told = leave(&asked, &[Method::GET, Method::PUT]);
        assert_eq!(told["access-control-allow-methods"], "GET, PUT");
        assert_eq!(told["access-control-allow-headers"], "x-team, content-type");
        for odd in ["x team", "a,,b", "a\tb", ""] {
            let told = leave(&map(&[("access-control-request-headers", odd)]), &[Method::GET]);
            assert!(!told.contains_key("access-control-allow-headers"), "{odd}");
        }
    }

    #[test]
    fn vary_is_said_once_and_without_an_origin_too() {
        let mut headers = map(&[("vary", "accept"), ("vary", "Origin")]);
        origins().dress(&mut headers, None);
        assert_eq!(headers, map(&[("vary", "accept"), ("vary", "Origin")]));
        let mut headers = map(&[("vary", "accept")]);
        origins().dress(&mut headers, None);
        assert_eq!(headers, map(&[("vary", "accept"), ("vary", "origin")]));
        AllowedOrigins::default().dress(&mut headers, None);
        assert_eq!(headers.get_all("vary").iter().count(), 2);
    }
}
