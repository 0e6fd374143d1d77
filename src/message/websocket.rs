//! The WebSocket handshake: who asks for one, and what a right answer to it says.
//!
//! Only version 13 over HTTP/1.1, which is all there is in practice (RFC 6455 4). Looks at fields, never at frames.
//! Imports `message::fields`.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version};

use super::fields::lists;

/// RFC 6455 1.3: what is hashed behind the key, so that only a server that knows WebSocket gives the answer.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The protocol's name in `Upgrade`.
pub const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// What `Connection` says of it.
pub const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");

/// What the answer to a handshake must carry in `Sec-WebSocket-Accept`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept(String);

/// Why a request that asks for a WebSocket cannot have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not `GET`, or not HTTP/1.1.
    #[error("a WebSocket handshake is a GET over HTTP/1.1")]
    NotAGet,
    /// Another version than 13, or none.
    #[error("Sec-WebSocket-Version is not 13")]
    Version,
    /// No key, two, or not 16 bytes in base64.
    #[error("Sec-WebSocket-Key is not 16 bytes in base64")]
    Key,
    /// A handshake has no body.
    #[error("a WebSocket handshake has no body")]
    Body,
}

/// What the head of a request asks for: `None` if not for a WebSocket.
pub fn asked(method: &Method, version: Version, headers: &HeaderMap) -> Option<Result<Accept, HandshakeError>> {
    let asks = headers.contains_key(header::UPGRADE)
        && lists(headers, &header::UPGRADE, "websocket")
        && lists(headers, &header::CONNECTION, "upgrade");
    asks.then(|| judge(method, version, headers))
}

fn judge(method: &Method, version: Version, headers: &HeaderMap) -> Result<Accept, HandshakeError> {
    if *method != Method::GET || version != Version::HTTP_11 {
        return Err(HandshakeError::NotAGet);
    }
    if only(headers, &header::SEC_WEBSOCKET_VERSION) != Some(b"13") {
        return Err(HandshakeError::Version);
    }
    if headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
    {
        return Err(HandshakeError::Body);
    }
    let key = only(headers, &header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key)).ok_or(HandshakeError::Key)?;
    Ok(Accept(STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat()))))
}

/// The form alone: a client whose last character has a bit too many has always been served.
fn is_key(key: &[u8]) -> bool {
    let digits = key.strip_suffix(b"==").unwrap_or_default();
    digits.len() == 22 && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// The value of a field that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => Some(line.as_bytes()),
        _ => None,
    }
}

impl Accept {
    /// Whether a 101 with these fields answers the handshake (RFC 6455 4.1).
    pub fn is_given_by(&self, headers: &HeaderMap) -> bool {
        lists(headers, &header::UPGRADE, "websocket")
            && lists(headers, &header::CONNECTION, "upgrade")
            && only(headers, &header::SEC_WEBSOCKET_ACCEPT) == Some(self.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn with(changed: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut lines = vec![
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ];
        lines.retain(|(name, _)| changed.iter().all(|(other, _)| other != name));
        lines.extend(changed.iter().filter(|(_, value)| !value.is_empty()));
        map(&lines)
    }

    fn ask(headers: &HeaderMap) -> Option<Result<Accept, HandshakeError>> {
        asked(&Method::GET, Version::HTTP_11, headers)
    }

    #[test]
    fn the_answer_to_the_rfcs_key_is_the_rfcs() {
        let accept = ask(&with(&[])).unwrap().unwrap();
        assert_eq!(accept, Accept("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned()));
        let answer =
            |value| map(&[("upgrade", "WebSocket"), ("connection", "upgrade"), ("sec-websocket-accept", value)]);
        assert!(accept.is_given_by(&answer("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!accept.is_given_by(&answer("S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        let twice = [("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); 2];
        let lines = [&[("upgrade", "websocket"), ("connection", "upgrade")][..], &twice].concat();
        assert!(!accept.is_given_by(&map(&lines)));
        for missing in ["upgrade", "connection"] {
            let mut headers = answer("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            headers.remove(missing);
            assert!(!accept.is_given_by(&headers), "{missing}");
        }
    }

    #[test]
    fn only_both_fields_together_ask_for_a_websocket() {
        for lines in
            [&[("upgrade", "")][..], &[("upgrade", "h2c")], &[("connection", "")], &[("connection", "keep-alive")]]
        {
            assert!(ask(&with(lines)).is_none(), "{lines:?}");
        }
        assert!(ask(&with(&[("upgrade", "h2c, WebSocket")])).is_some());
    }

    #[test]
    fn a_handshake_that_breaks_a_rule_is_refused() {
        use HandshakeError::{Body, Key, NotAGet, Version as Other};
        for (lines, error) in [
            (&[("sec-websocket-version", "")][..], Other),
            (&[("sec-websocket-version", "8")], Other),
            (&[("sec-websocket-version", "13, 8")], Other),
            (&[("sec-websocket-version", "13"), ("sec-websocket-version", "13")], Other),
            (&[("sec-websocket-key", "")], Key),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZQ==")], Key),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQAA")], Key),
            (&[("sec-websocket-key", KEY), ("sec-websocket-key", KEY)], Key),
            (&[("content-length", "3")], Body),
            (&[("transfer-encoding", "chunked")], Body),
        ] {
            assert_eq!(ask(&with(lines)), Some(Err(error)), "{lines:?}");
        }
        assert_eq!(asked(&Method::POST, Version::HTTP_11, &with(&[])), Some(Err(NotAGet)));
        assert_eq!(asked(&Method::GET, Version::HTTP_10, &with(&[])), Some(Err(NotAGet)));
    }
}
