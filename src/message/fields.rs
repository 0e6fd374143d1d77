//! Header fields: which ones end here, which ones a caller may not send, which ones an upstream may not.
//!
//! The rules are RFC 9110 7.6.1 and docs/rules.md 2.4, 2.5. Imports nothing of ours.

mod copied;

use std::borrow::Cow;

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

pub use self::copied::Copied;

/// Our name in `Via` (RFC 9110 7.6.3); a request that already carries it has gone in a circle.
const VIA_NAME: &str = "countersign";
/// The field that carries the request id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// By which a client asks that a request be done once, however often it comes (draft-ietf-httpapi-idempotency-key-header).
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `Upgrade`, as the gate writes it where no WebSocket is asked for. Never travels on.
pub const STRAY_UPGRADE: &str = "~pgrade";
/// What a failure most likely comes from.
pub const HINT: HeaderName = HeaderName::from_static("x-countersign-hint");
/// Why the answer is not the upstream's.
pub const ERROR_CODE: HeaderName = HeaderName::from_static("x-countersign-error");
/// What callers show where a caller token is asked for.
pub const CALLER_TOKEN: HeaderName = HeaderName::from_static("x-countersign-token");
/// RFC 9209.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Which of a caller's fields stand for an identity and so may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerIdentity {
    /// The route authorises requests itself: the caller's own authorisation is dropped.
    Replaced,
    /// `auth = "none"`: the caller's own authorisation is the API's business.
    Passed,
}

/// Takes out of a request what must not travel on: hop-by-hop fields and those that `Connection` names, the framing
/// (ours is set later), `Host`, our own fields, and fields that would pose as an identity.
///
/// `removed` is told each name, for `explain`.
pub fn strip_request(headers: &mut HeaderMap, identity: CallerIdentity, mut removed: impl FnMut(&HeaderName)) {
    strip_nominated(headers, &mut removed);
    // Each request has it; so there is mostly nothing left for `retain`, which has to keep a list.
    if headers.remove(header::HOST).is_some() {
        removed(&header::HOST);
    }
    retain(headers, |name| !is_dropped_from_request(name, identity), &mut removed);
}

/// Takes out what a proxy before us said of a request's way.
pub fn strip_forwarding(headers: &mut HeaderMap, mut removed: impl FnMut(&HeaderName)) {
    retain(headers, |name| !is_forwarding(name), &mut removed);
}

/// A field in which a proxy before us speaks of the request's way, if there is one.
pub fn forwarding(headers: &HeaderMap) -> Option<&HeaderName> {
    headers.keys().find(|name| is_forwarding(name.as_str()))
}

/// Takes out of a response what must not travel on. `trailers` is whether the client said that it takes them.
pub fn strip_response(headers: &mut HeaderMap, trailers: Trailers) {
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    strip_nominated(headers, &mut |_| {});
    // As most answers over HTTP/1.1 have it.
    headers.remove(header::CONNECTION);
    retain(headers, |name| !is_dropped_from_response(name, trailers), &mut |_| {});
    if chunked {
        // RFC 9112 6.3: Transfer-Encoding overrides, and the length is not to be believed.
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Takes out of an answer's trailers what would have been taken out of its head, and the length that would frame it.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip_response(trailers, Trailers::Unwanted);
    trailers.remove(header::CONTENT_LENGTH);
}

/// Takes out fields that some servers would read as one of ours, because they take `_` for `-` (docs/rules.md 1.9).
pub fn strip_twins(headers: &mut HeaderMap, is_ours: impl Fn(&str) -> bool) {
    let is_twin = |name: &HeaderName| name.as_str().contains('_') && is_ours(&as_read(name.as_str()));
    let twins: Vec<HeaderName> = headers.keys().filter(|name| is_twin(name)).cloned().collect();
    for twin in twins {
        headers.remove(&twin);
    }
}

/// How many fields of a request's head hyper takes unless it is told a number. Told one, it fills two tables with as many
/// empty lines for each head that it reads, which costs more than reading it: so it is told others than this alone.
pub const HYPERS_MOST: usize = 100;

/// Whether the client takes trailer fields (`TE: trailers`, RFC 9110 10.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trailers {
    /// It does.
    Wanted,
    /// It does not; they are dropped.
    Unwanted,
}

impl Trailers {
    /// Reads a request's `TE`.
    pub fn wanted_by(headers: &HeaderMap) -> Self {
        if lists(headers, &header::TE, "trailers") { Self::Wanted } else { Self::Unwanted }
    }
}

/// What we say in `Via`: our name, behind the version in which the request came (RFC 9110 7.6.3).
pub fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_10 => "1.0 countersign",
        Version::HTTP_2 => "2.0 countersign",
        _ => "1.1 countersign",
    })
}

/// Whether a request has gone through a countersign before.
pub fn has_looped(headers: &HeaderMap) -> bool {
    tokens(headers, &header::VIA).any(|hop| hop.split_ascii_whitespace().nth(1) == Some(VIA_NAME))
}

/// A caller's request id, if it is fit to be logged and sent on: 1 to 128 of `A-Z a-z 0-9 . _ -`.
pub fn acceptable_request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let fits = (1..=128).contains(&id.len())
        && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    fits.then(|| id.clone())
}

/// Whether one of the comma-separated members of a field is `member`, in upper or lower case.
pub fn lists(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(member))
}

/// The comma-separated members of all lines of a field; lines that are not ASCII count as empty.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|token| token.split(';').next().unwrap_or_default().trim())
}

/// Every name in every `Connection` line (linkerd2-proxy read only the first line: docs/rules.md 1.9).
fn strip_nominated(headers: &mut HeaderMap, removed: &mut impl FnMut(&HeaderName)) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    // The usual word; a field of that name does not travel on anyway.
    let named = tokens(headers, &header::CONNECTION).filter(|token| !token.eq_ignore_ascii_case("keep-alive"));
    let nominated: Vec<HeaderName> = named.filter_map(|token| token.parse().ok()).collect();
    for name in nominated {
        if headers.remove(&name).is_some() {
            removed(&name);
        }
    }
}

fn retain(headers: &mut HeaderMap, keep: impl Fn(&str) -> bool, removed: &mut impl FnMut(&HeaderName)) {
    // `HeaderMap` cannot remove while it is read; mostly there is nothing or little to remove.
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| !keep(name.as_str())).cloned().collect();
    for name in unwanted {
        headers.remove(&name);
        removed(&name);
    }
}

/// The name as servers that speak CGI may read it: they take `_` for `-`, and so `x_amz_date` for ours (docs/rules.md 1.9).
fn as_read(name: &str) -> Cow<'_, str> {
    if name.contains('_') { name.trim_end_matches('_').replace('_', "-").into() } else { name.into() }
}

fn is_forwarding(name: &str) -> bool {
    let name = as_read(name);
    matches!(&*name, "via" | "forwarded" | "x-real-ip" | "x-original-url" | "x-rewrite-url")
        || name.starts_with("x-forwarded-")
}

fn is_dropped_from_request(name: &str, identity: CallerIdentity) -> bool {
    let is_twin = name.contains('_');
    match &*as_read(name) {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authorization"
        | "proxy-authenticate"
        | "te"
        | "trailer"
        | "upgrade"
        | STRAY_UPGRADE
        | "http2-settings"
        | "transfer-encoding"
        | "expect"
        | "content-length"
        | "host"
        | "x-countersign-token" => true,
        "authorization"
        | "x-amz-date"
        | "x-amz-security-token"
        | "x-amz-content-sha256"
        | "x-amz-credential"
        | "x-amz-signature"
        | "x-amz-algorithm"
        | "x-amz-signedheaders"
        | "x-amz-expires" => is_twin || identity == CallerIdentity::Replaced,
        _ => false,
    }
}

fn is_dropped_from_response(name: &str, trailers: Trailers) -> bool {
    match name {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authenticate"
        | "upgrade"
        | "transfer-encoding"
        | "te"
        | "http2-settings"
        | "alt-svc"
        | "strict-transport-security"
        | "x-amzn-remapped-authorization" => true,
        "trailer" => trailers == Trailers::Unwanted,
        // Only we say what is ours.
        _ => name.starts_with("access-control-") || name.starts_with("x-countersign-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn names_after(lines: &[(&str, &str)], identity: CallerIdentity) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        strip_request(&mut headers, identity, |_| {});
        // What is removed changes the order of names, which means nothing (RFC 9110 5.3).
        let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn a_second_connection_line_is_honoured() {
        let lines = [("connection", "x-a"), ("connection", "X-B, close"), ("x-a", "1"), ("x-b", "2"), ("x-c", "3")];
        assert_eq!(names_after(&lines, CallerIdentity::Replaced), ["x-c"]);
    }

    #[test]
    fn a_caller_cannot_pose_as_somebody() {
        let lines = [
            ("authorization", "mine"),
            ("x-amz-date", "1"),
            ("x_amz_security_token", "2"),
            ("authorization_", "3"),
            ("x-amz-meta", "kept"),
            ("x-countersign-token", "t"),
            ("cookie", "kept"),
        ];
        assert_eq!(names_after(&lines, CallerIdentity::Replaced), ["cookie", "x-amz-meta"]);
        let passed = names_after(&lines, CallerIdentity::Passed);
        assert_eq!(passed, ["authorization", "cookie", "x-amz-date", "x-amz-meta"]);
    }

    #[test]
    fn what_proxies_say_is_told_by_name_and_twin() {
        let mut headers = map(&[("x-team", "kept"), ("x-forwarded", "kept")]);
        assert_eq!(forwarding(&headers), None);
        for name in [
            "x-forwarded-for",
            "x-forwarded-anything",
            "forwarded",
            "via",
            "x-real-ip",
            "x-original-url",
            "x-rewrite-url",
            "x_forwarded_for",
            "x_real_ip",
        ] {
            headers.insert(name, "1".parse().unwrap());
            assert_eq!(forwarding(&headers).map(HeaderName::as_str), Some(name));
            strip_forwarding(&mut headers, |_| {});
            assert_eq!(headers.len(), 2, "{name}");
        }
    }

    #[test]
    fn a_twin_of_a_field_that_is_set_is_dropped() {
        let mut headers = map(&[("x_api_key", "1"), ("x_other", "2"), ("x-api-key", "3")]);
        strip_twins(&mut headers, |name| name == "x-api-key");
        assert_eq!(headers, map(&[("x_other", "2"), ("x-api-key", "3")]));
    }

    #[test]
    fn framing_is_ours_alone() {
        let lines = [
            ("content-length", "5"),
            ("transfer_encoding", "chunked"),
            ("content_length", "5"),
            ("te", "gzip"),
            ("host", "a"),
            ("expect", "100-continue"),
        ];
        assert!(names_after(&lines, CallerIdentity::Passed).is_empty());
    }

    #[test]
    fn our_own_via_is_a_loop_and_others_are_not() {
        assert!(has_looped(&map(&[("via", "1.0 squid, 1.1 countersign")])));
        assert!(!has_looped(&map(&[("via", "1.1 countersigned, 1.1 x countersign")])));
        assert!(!has_looped(&HeaderMap::new()));
    }

    #[test]
    fn only_plain_request_ids_are_kept() {
        assert!(acceptable_request_id(&map(&[("x-request-id", "a.B_9-")])).is_some());
        for id in ["", "a b", "é", &"x".repeat(129)] {
            assert!(acceptable_request_id(&map(&[("x-request-id", id)])).is_none(), "{id}");
        }
    }

    #[test]
    fn an_upstream_cannot_speak_for_this_origin() {
        let mut headers = map(&[
            ("alt-svc", "h3"),
            ("strict-transport-security", "x"),
            ("access-control-allow-origin", "*"),
            ("x-countersign-error", "no-route"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("etag", "kept"),
        ]);
        strip_response(&mut headers, Trailers::Wanted);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["etag", "trailer"]);
        assert_eq!(Trailers::wanted_by(&map(&[("te", "gzip, Trailers;q=1")])), Trailers::Wanted);
    }
}
