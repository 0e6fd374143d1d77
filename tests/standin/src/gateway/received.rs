//! The record of a request: what arrived, and what was made of it.

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// The method.
    pub method: String,
    /// Path and query, byte for byte as received.
    pub target: String,
    /// HTTP/1.0, 1.1 or 2.
    pub version: http::Version,
    /// `Host`, or `:authority` in HTTP/2.
    pub host: Option<String>,
    /// The SNI of its connection.
    pub server_name: Option<String>,
    /// The number of its connection, from 1 in order of acceptance.
    pub connection: usize,
    /// The fields: names in lower case, in order of first occurrence, equal names together; values byte for byte.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Bytes of body that have arrived.
    pub body_len: u64,
    /// SHA-256 of these in hex; empty until the body has ended.
    pub body_sha256: String,
    /// How the body ended.
    pub body_end: BodyEnd,
    /// The trailers; like `headers`.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Who sent it: client id or ARN.
    pub principal: Option<String>,
    /// The authorizer's verdict: the kind of authorizer that let it pass, or why it was refused.
    pub verdict: Result<String, String>,
}

/// How a request body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// It has not.
    Arriving,
    /// Properly.
    Whole,
    /// The sender broke it off.
    Cut,
    /// It was not read to its end: refused, or not wanted by the responder.
    Unread,
}

impl Received {
    /// The value of a field, if it is there and is text; of several, the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// All values of a field.
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        let named = self.headers.iter().filter(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_slice()).collect()
    }
}
