//! Who may call, and what may be asked for. The first stage of every request, before any route is looked up.
//!
//! Whoever reaches this port acts with somebody's cloud identity, so a web page must not: its Host shows DNS rebinding,
//! its Origin and Sec-Fetch-Site the rest ([`origin`]). Another program of this machine must not either, where a caller
//! token is asked for ([`token`]). The order of the checks is docs/rules.md 2.1: the cheapest and the least telling first.
//! What a request names, it names here once: this proxy, an upstream by its URL, or another host ([`Named`]).
//! Imports `message`, `secret`, `route`.

pub mod origin;
pub mod token;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Version};
use hyper::body::Incoming;

use self::origin::AllowedOrigins;
use self::token::CallerToken;
use super::Settings;
use super::outcome::ProxyError;
use crate::message::fields;
use crate::message::target::{Target, TargetError};
use crate::route::upstream::{HostPort, url_host};

/// Names that can only mean this machine; no other spelling of them is taken.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Who may call.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Besides [`LOOPBACK`].
    hosts: HashSet<String>,
    upstreams: HashSet<String>,
    origins: AllowedOrigins,
    forwarding: Forwarding,
    token: Option<Arc<CallerToken>>,
}

/// What is done with what a proxy before us said of a request's way: X-Forwarded-*, Forwarded, Via, X-Real-IP,
/// X-Original-URL, X-Rewrite-URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// It is taken out: an API must not believe a caller's word about another caller.
    #[default]
    Strip,
    /// It passes.
    Pass,
    /// The request is refused: an open proxy beside us must not carry others in (SECURITY.md).
    Refuse,
}

/// Whom a request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// This proxy, by one of its names or a route's `host`: lower case, no port.
    Here(String),
    /// An upstream, by a URL of its own: its host as [`url_host`] writes it.
    Upstream(String),
    /// Another host, by a URL: a program takes us for its HTTP proxy.
    Elsewhere(HostPort),
    /// The end of a tunnel (CONNECT).
    Tunnel(HostPort),
}

impl Named {
    /// Whether the request comes from a program that takes us for its HTTP proxy.
    fn is_to_proxy(&self) -> bool {
        match self {
            Self::Here(_) => false,
            Self::Upstream(_) | Self::Elsewhere(_) | Self::Tunnel(_) => true,
        }
    }

    /// Its host, for people.
    pub fn host(&self) -> &str {
        match self {
            Self::Here(host) | Self::Upstream(host) => host,
            Self::Elsewhere(to) | Self::Tunnel(to) => &to.host,
        }
    }
}

impl Guard {
    /// Lets in who says a loopback name, one of `hosts` (lower case, no port) or the URL of one of `upstreams` (as
    /// [`url_host`] writes them) and keeps the rules of `settings`; and asks for `token`, if there is one.
    pub fn new(
        settings: &Settings,
        hosts: impl IntoIterator<Item = String>,
        upstreams: impl IntoIterator<Item = String>,
        token: Option<Arc<CallerToken>>,
    ) -> Self {
        Self {
            hosts: settings.allowed_hosts.iter().cloned().chain(hosts).collect(),
            upstreams: upstreams.into_iter().collect(),
            origins: AllowedOrigins::new(&settings.allowed_origins),
            forwarding: settings.forwarding,
            token,
        }
    }

    /// Lets in who says a loopback name.
    pub fn loopback() -> Self {
        let (origins, forwarding) = (AllowedOrigins::default(), Forwarding::Strip);
        Self { hosts: HashSet::new(), upstreams: HashSet::new(), origins, forwarding, token: None }
    }

    /// All checks but the token's and the path's. Returns whom the request means.
    ///
    /// # Errors
    /// [`ProxyError`] by the first rule that is broken.
    pub fn check(&self, parts: &Parts) -> Result<Named, ProxyError> {
        let named = self.check_caller(parts, None)?;
        // A tunnel's is another matter.
        if !matches!(named, Named::Tunnel(_)) {
            check_request(parts)?;
        }
        Ok(named)
    }

    /// The same for whom nobody is a proxy: the request means us.
    ///
    /// # Errors
    /// As [`Guard::check`].
    pub fn check_here(&self, parts: &Parts) -> Result<(), ProxyError> {
        match self.check(parts)? {
            Named::Here(_) => Ok(()),
            named @ (Named::Upstream(_) | Named::Elsewhere(_) | Named::Tunnel(_)) => {
                Err(ProxyError::HostNotAllowed(named.host().to_owned()))
            }
        }
    }

    /// The web origins whose pages may call.
    pub(super) fn origins(&self) -> &AllowedOrigins {
        &self.origins
    }

    /// Takes out what a proxy before us said, if that is not to pass.
    pub(super) fn strip_forwarding(&self, headers: &mut HeaderMap, removed: impl FnMut(&HeaderName)) {
        if self.forwarding != Forwarding::Pass {
            fields::strip_forwarding(headers, removed);
        }
    }

    fn check_caller(&self, parts: &Parts, inside: Option<&HostPort>) -> Result<Named, ProxyError> {
        let named = match inside {
            None => self.named(parts)?,
            Some(inside) => self.named_inside(parts, inside)?,
        };
        self.origins.check(&parts.method, &parts.headers)?;
        if fields::has_looped(&parts.headers) {
            return Err(ProxyError::Loop);
        }
        if self.forwarding == Forwarding::Refuse
            && let Some(name) = fields::forwarding(&parts.headers)
        {
            return Err(ProxyError::Forwarded(name.clone()));
        }
        Ok(named)
    }

    /// Whom a request means. Only HTTP/1 tells a request to a proxy from one to a server: HTTP/2 writes both with a
    /// scheme and an authority (RFC 9113 8.3.1).
    fn named(&self, parts: &Parts) -> Result<Named, ProxyError> {
        let (host, port) = host_of(parts)?;
        let host = host.to_ascii_lowercase();
        let may_be_to_proxy = parts.version < Version::HTTP_2 && parts.uri.authority().is_some();
        if may_be_to_proxy && parts.method == Method::CONNECT {
            let port = port.filter(|port| *port > 0).ok_or(ProxyError::Tunnel("CONNECT names no port"))?;
            return Ok(Named::Tunnel(host_port(&host, port)));
        }
        if may_be_to_proxy {
            let upstream = url_host(&host, port);
            if self.upstreams.contains(&upstream) {
                return Ok(Named::Upstream(upstream));
            }
        }
        // Mostly it is one of the first.
        if LOOPBACK.contains(&host.as_str()) || self.hosts.contains(&host) {
            return Ok(Named::Here(host));
        }
        if may_be_to_proxy {
            return Ok(Named::Elsewhere(host_port(&host, port.unwrap_or(80))));
        }
        Err(ProxyError::HostNotAllowed(host))
    }

    /// The same behind a CONNECT that we have not led on: it has named the host, and nobody is asked for another there.
    fn named_inside(&self, parts: &Parts, inside: &HostPort) -> Result<Named, ProxyError> {
        let (host, port) = host_of(parts)?;
        let usual = if inside.port == 80 { 80 } else { 443 };
        if host_port(&host.to_ascii_lowercase(), port.unwrap_or(usual)) != *inside {
            return Err(ProxyError::BadHost("the Host is not the one that CONNECT has named"));
        }
        let url_host = inside.url_host();
        Ok(if self.upstreams.contains(&url_host) { Named::Upstream(url_host) } else { Named::Here(url_host) })
    }
}

/// As it is looked up: no brackets, and no dot at the end, which some rules would miss it for.
fn host_port(host: &str, port: u16) -> HostPort {
    HostPort { host: host.trim_matches(['[', ']']).trim_end_matches('.').to_owned(), port }
}

fn check_request(parts: &Parts) -> Result<(), ProxyError> {
    // TRACE would echo the credential; what is left of CONNECT here names no host.
    if matches!(parts.method, Method::CONNECT | Method::TRACE) || parts.method.as_str() == "TRACK" {
        return Err(ProxyError::MethodNeverProxied(parts.method.clone()));
    }
    // hyper answers `100-continue` when the body is first read, which is after all checks (RFC 9110 10.1.1).
    let mut expected = parts.headers.get_all(header::EXPECT).iter();
    if expected.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(ProxyError::Expectation);
    }
    Ok(())
}

/// What is to be done with a request that may come in.
#[derive(Debug)]
pub enum Admission {
    /// It may be routed, or led elsewhere.
    Route(Box<Admitted>),
    /// A tunnel is asked for.
    Tunnel(HostPort),
    /// A browser asks leave for a page's request: the route says for what.
    Preflight(Preflight),
    /// `OPTIONS *` asks about the server, which is us (RFC 9110 9.3.7).
    Ping,
}

/// A request that may be routed. Only [`admit`] makes one.
#[derive(Debug)]
pub struct Admitted {
    parts: Parts,
    body: Incoming,
    named: Named,
    target: Target,
}

/// A page's wish. Its target is judged by the same rules as the request's will be.
#[derive(Debug)]
pub struct Preflight {
    named: Named,
    target: Target,
    method: Method,
    headers: HeaderMap,
}

impl Admitted {
    /// Whom it means.
    pub fn named(&self) -> &Named {
        &self.named
    }

    /// Its path and query.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Its method.
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// The version of HTTP that it came in.
    pub fn version(&self) -> Version {
        self.parts.version
    }

    /// All of it, for the next stage.
    pub(super) fn into_parts(self: Box<Self>) -> (Method, HeaderMap, Target, Incoming) {
        let Self { parts, body, target, named: _ } = *self;
        (parts.method, parts.headers, target, body)
    }
}

impl Preflight {
    /// Whom the request that is to come means, its target and its method.
    pub fn wanted(&self) -> (&Named, &Target, &Method) {
        (&self.named, &self.target, &self.method)
    }

    /// What the browser is told of a route that takes `methods`.
    pub fn leave(&self, methods: &[Method]) -> HeaderMap {
        origin::leave(&self.headers, methods)
    }
}

/// Lets a request in, or says why not. `inside` is what the CONNECT named that it comes behind, if it does: that has shown
/// the caller token.
///
/// # Errors
/// [`ProxyError`] by the first rule that is broken.
pub fn admit(request: Request<Incoming>, guard: &Guard, inside: Option<&HostPort>) -> Result<Admission, ProxyError> {
    let (mut parts, body) = request.into_parts();
    let named = guard.check_caller(&parts, inside)?;
    let asked = AllowedOrigins::asked(&parts.method, &parts.headers);
    let asked = asked.filter(|_| matches!(named, Named::Here(_) | Named::Upstream(_)));
    // A browser asks before it shows anything; what it is told is no secret of anybody's.
    if let (Some(token), None, None) = (&guard.token, &asked, inside) {
        let admitted = token.admit(&mut parts.headers);
        // A program that takes us for its proxy waits to be asked as by one.
        admitted.map_err(|refused| if named.is_to_proxy() { ProxyError::ProxyToken } else { refused })?;
    }
    if let Named::Tunnel(to) = named {
        let length = parts.headers.get(header::CONTENT_LENGTH);
        let has_body =
            length.is_some_and(|length| length != "0") || parts.headers.contains_key(header::TRANSFER_ENCODING);
        // RFC 9110 9.3.6: what comes behind the head is the tunnel's.
        return if has_body { Err(ProxyError::Tunnel("CONNECT has no body")) } else { Ok(Admission::Tunnel(to)) };
    }
    check_request(&parts)?;
    if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
        return Ok(Admission::Ping);
    }
    let target = parts.uri.path_and_query().ok_or(TargetError::NotAPath)?;
    let target = Target::parse(target)?;
    if let Some(method) = asked {
        return Ok(Admission::Preflight(Preflight { named, target, method, headers: parts.headers }));
    }
    guard.strip_forwarding(&mut parts.headers, |_| {});
    Ok(Admission::Route(Box::new(Admitted { parts, body, named, target })))
}

/// Host and port of the request-target, which beats the Host field (RFC 9112 3.2.2), or of that field.
fn host_of(parts: &Parts) -> Result<(Cow<'_, str>, Option<u16>), ProxyError> {
    let mut lines = parts.headers.get_all(header::HOST).iter();
    let line = match (lines.next(), lines.next()) {
        (Some(_), Some(_)) => return Err(ProxyError::BadHost("the request has more than one Host field")),
        (line, _) => line,
    };
    if let Some(authority) = parts.uri.authority() {
        // `host:443` is CONNECT's form, and that is refused by its method (RFC 9112 3.2.3).
        if parts.uri.scheme().is_none() && parts.method != Method::CONNECT {
            return Err(TargetError::NotAPath.into());
        }
        // HTTP/2 has the name twice where a proxy has kept both, and they must say the same (RFC 9113 8.3.1).
        let says_another = |line: &HeaderValue| !line.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
        if parts.version == Version::HTTP_2 && line.is_some_and(says_another) {
            return Err(ProxyError::BadHost("the Host field is not the :authority"));
        }
        return host_name(authority.as_str()).map(|(host, port)| (Cow::Owned(host.to_owned()), port));
    }
    match line {
        Some(line) => host_name(text(line)?).map(|(host, port)| (Cow::Borrowed(host), port)),
        // An HTTP/1.0 client need not say whom it means (RFC 9112 3.2).
        None if parts.version <= Version::HTTP_10 => Ok((Cow::Borrowed("localhost"), None)),
        None => Err(ProxyError::BadHost("the request has no Host field")),
    }
}

fn text(line: &HeaderValue) -> Result<&str, ProxyError> {
    line.to_str().map_err(|_not_ascii| ProxyError::BadHost("the Host field is not a host name"))
}

/// `name`, `name:port`, `[v6]` or `[v6]:port`, in its two parts. User information and anything else is refused; a port that
/// is none, such as 99999, counts as not given.
fn host_name(authority: &str) -> Result<(&str, Option<u16>), ProxyError> {
    let bad = || ProxyError::BadHost("the Host field is not a host name and an optional port");
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']').ok_or_else(bad)? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (name, port) = authority.split_at_checked(end).ok_or_else(bad)?;
    let port_is_right = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()),
    };
    let name_is_right = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':'));
    let number = port.strip_prefix(':').and_then(|digits| digits.parse().ok());
    if port_is_right && name_is_right { Ok((name, number)) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(method: &str, uri: &str, version: Version, lines: &[(&str, &str)]) -> Result<Named, ProxyError> {
        let mut request = Request::builder().method(method).uri(uri).version(version);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let hosts = HashSet::from(["orders.local".to_owned()]);
        let upstreams = ["api.example", "api.example:8443"].map(ToOwned::to_owned).into();
        let guard = Guard { hosts, upstreams, ..Guard::loopback() };
        guard.check(&request.body(()).unwrap().into_parts().0)
    }

    fn with_host(host: &str) -> Result<Named, ProxyError> {
        judge("GET", "/", Version::HTTP_11, &[("host", host)])
    }

    #[test]
    fn loopback_names_and_configured_ones_may_call_on_any_port() {
        for host in ["localhost", "LOCALHOST:9", "127.0.0.1:8080", "[::1]", "[::1]:8080", "Orders.Local:80"] {
            assert!(with_host(host).is_ok(), "{host}");
        }
    }

    #[test]
    fn odd_spellings_of_loopback_are_refused() {
        for host in [
            "evil.test",
            "localhost.evil.test",
            "127.0.0.1.nip.io",
            "[::]",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "[::ffff:127.0.0.1]",
            "localhost.",
            "a@localhost",
            "localhost:80@evil",
            "",
            "local host",
            "x.local",
            "x.internal",
            "localhost:",
            "localhost:123456",
            "localhost:8a",
            "[::1",
            "[::1]x",
            "::1",
        ] {
            assert!(with_host(host).is_err(), "{host}");
        }
    }

    #[test]
    fn the_target_beats_the_host_field_and_two_hosts_are_none() {
        let two = [("host", "localhost"), ("host", "localhost")];
        assert!(matches!(judge("GET", "/", Version::HTTP_11, &two), Err(ProxyError::BadHost(_))));
        assert!(judge("GET", "http://localhost:1/", Version::HTTP_11, &[("host", "evil.test")]).is_ok());
        let elsewhere = judge("GET", "http://Evil.test./", Version::HTTP_11, &[("host", "localhost")]);
        assert_eq!(elsewhere.unwrap(), Named::Elsewhere(HostPort { host: "evil.test".to_owned(), port: 80 }));
        assert!(judge("GET", "http://a@localhost/", Version::HTTP_11, &[("host", "localhost")]).is_err());
        assert!(matches!(judge("GET", "/", Version::HTTP_11, &[]), Err(ProxyError::BadHost(_))));
        assert!(judge("GET", "/", Version::HTTP_10, &[]).is_ok());
        let authority_form = judge("GET", "localhost:443", Version::HTTP_11, &[("host", "localhost")]);
        assert!(matches!(authority_form, Err(ProxyError::Target(TargetError::NotAPath))));
    }

    #[test]
    fn an_upstream_is_named_by_its_url_alone() {
        let url = |url: &str| judge("GET", url, Version::HTTP_11, &[("host", "localhost")]).unwrap();
        let upstream = |host: &str| Named::Upstream(host.to_owned());
        for text in ["http://api.example/x", "http://API.example:80/x", "http://api.example:443/x"] {
            assert_eq!(url(text), upstream("api.example"), "{text}");
        }
        assert_eq!(url("http://api.example:8443/"), upstream("api.example:8443"));
        for (text, host, port) in [("http://api.example:81/", "api.example", 81), ("http://[fe80::1]/", "fe80::1", 80)]
        {
            assert_eq!(url(text), Named::Elsewhere(HostPort { host: host.to_owned(), port }), "{text}");
        }
        assert!(with_host("api.example").is_err(), "a page could have that name, and only a proxy is sent URLs");
        let http2 = judge("GET", "https://api.example/", Version::HTTP_2, &[]);
        assert!(matches!(http2, Err(ProxyError::HostNotAllowed(_))));
    }

    #[test]
    fn behind_a_connect_there_is_one_host() {
        let guard = Guard { upstreams: ["api.example".to_owned()].into(), ..Guard::loopback() };
        let judge = |uri: &str, version: Version, host: &str, inside: &str| {
            let request = Request::builder().uri(uri).version(version).header("host", host).body(()).unwrap();
            guard.check_caller(&request.into_parts().0, Some(&HostPort { host: inside.to_owned(), port: 443 }))
        };
        for host in ["api.example", "API.example:443", "api.example."] {
            let named = judge("/x", Version::HTTP_11, host, "api.example").unwrap();
            assert_eq!(named, Named::Upstream("api.example".to_owned()), "{host}");
        }
        let named = judge("/x", Version::HTTP_11, "orders.local", "orders.local").unwrap();
        assert_eq!(named, Named::Here("orders.local".to_owned()));
        assert!(judge("https://api.example/x", Version::HTTP_2, "api.example", "api.example").is_ok());
        for (uri, version, host) in [
            ("/x", Version::HTTP_11, "localhost"),
            ("/x", Version::HTTP_11, "api.example:80"),
            ("/x", Version::HTTP_11, "other.example"),
            ("http://localhost/x", Version::HTTP_11, "api.example"),
            ("https://localhost/x", Version::HTTP_2, "localhost"),
        ] {
            assert!(matches!(judge(uri, version, host, "api.example"), Err(ProxyError::BadHost(_))), "{uri} {host}");
        }
    }

    #[test]
    fn http_2_names_one_host() {
        let judge = |host: &str| judge("GET", "https://localhost:1/", Version::HTTP_2, &[("host", host)]);
        assert!(judge("LocalHost:1").is_ok());
        for host in ["localhost", "localhost:2", "evil.test", ""] {
            assert!(matches!(judge(host), Err(ProxyError::BadHost(_))), "{host}");
        }
    }

    #[test]
    fn web_pages_are_refused_and_node_is_not() {
        let page = |method: &str, name: &str, value: &str| {
            judge(method, "/", Version::HTTP_11, &[("host", "localhost"), (name, value)])
        };
        for origin in ["null", "", "http://127.0.0.1:8080", "http://localhost"] {
            assert!(page("GET", "origin", origin).is_err(), "{origin}");
        }
        for site in ["same-site", "same-origin", "Cross-Site", "cross-site", "new", "None"] {
            assert!(page("GET", "sec-fetch-site", site).is_err(), "{site}");
        }
        assert!(page("GET", "sec-fetch-site", "none").is_ok());
        assert!(page("POST", "sec-fetch-site", "none").is_err());
        assert!(page("GET", "sec-fetch-mode", "cors").is_ok(), "Node's fetch sends this and no site");
    }

    #[test]
    fn only_100_continue_may_be_expected() {
        let expect = |value: &str| judge("PUT", "/", Version::HTTP_11, &[("host", "localhost"), ("expect", value)]);
        assert!(expect("100-Continue").is_ok());
        assert!(matches!(expect("foo"), Err(ProxyError::Expectation)));
    }

    #[test]
    fn tracing_tunnelling_and_loops_are_refused() {
        let host = [("host", "localhost")];
        for method in ["TRACE", "TRACK"] {
            assert!(judge(method, "/", Version::HTTP_11, &host).is_err());
        }
        assert!(judge("CONNECT", "localhost", Version::HTTP_11, &host).is_err());
        let looped = [("host", "localhost"), ("via", "1.1 countersign")];
        assert!(matches!(judge("GET", "/", Version::HTTP_11, &looped), Err(ProxyError::Loop)));
    }
}
