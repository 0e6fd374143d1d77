//! How an upstream's answer is framed, and whether the connection it came on can be believed afterwards.
//!
//! Upstreams answer with two framings at once, codings beside `chunked`, lengths where there is no body, and codes up to 999
//! (docs/rules.md 1.4, 2.5). An answer leaves here with one length in normal form or none, or is refused. The rules are RFC 9110
//! 8.6 and RFC 9112 6. Imports nothing of ours.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};

/// The largest status code there is (RFC 9110 15).
const LAST_STATUS: u16 = 599;

/// The largest length that hyper's server can pass on.
const LARGEST: u64 = u64::MAX - 2;

/// Whether another answer may be read behind this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It may.
    Kept,
    /// Where this answer ends is in doubt: the next one could begin inside it.
    Spent,
}

/// How an answer is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Of the connection.
    pub trust: Trust,
    /// Bytes, as its `Content-Length` says.
    pub length: Option<u64>,
    /// In chunks, whatever that says.
    pub is_chunked: bool,
}

/// Why an answer is no answer. The texts go to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Above 599.
    #[error("the status code {0} does not exist")]
    Status(u16),
    /// Not a number, or two different ones.
    #[error("Content-Length is not one number")]
    Length,
    /// Something else than one `chunked`.
    #[error("Transfer-Encoding is not chunked")]
    Coding,
    /// No head of HTTP/1.
    #[error("what came is no answer in HTTP/1: {0}")]
    Head(httparse::Error),
    /// A head that is too large.
    #[error("the head of the answer is larger than {0} bytes (max_response_head)")]
    HeadTooLarge(u32),
    /// Too many fields in one.
    #[error("the head of the answer has more than {0} fields (max_response_fields)")]
    TooManyFields(usize),
    /// Interim answers without end.
    #[error("the upstream sent more than {0} interim answers (1xx) to one request (max_interim)")]
    TooManyInterim(u32),
    /// No chunk where one should begin or end, or too much beside its size.
    #[error("the content is not made of chunks as its head says")]
    Chunk,
    /// No fields behind the last chunk, or too many.
    #[error("the trailers behind the content: {0}")]
    Trailers(httparse::Error),
}

/// Judges the head of an answer, and leaves at most one Content-Length in it.
///
/// # Errors
/// [`FramingError`]: the answer cannot be passed on.
pub fn judge(status: StatusCode, headers: &mut HeaderMap) -> Result<Framing, FramingError> {
    if status.as_u16() > LAST_STATUS {
        return Err(FramingError::Status(status.as_u16()));
    }
    let length = length(headers)?;
    let is_chunked = is_chunked(headers)?;
    let mut trust = Trust::Kept;
    if length.is_some() && is_chunked {
        // RFC 9112 6.3: chunked counts. Who sends both may be two servers that do not agree on where this ends.
        headers.remove(header::CONTENT_LENGTH);
        trust = Trust::Spent;
    }
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
        if is_chunked || length.is_some_and(|length| length > 0) {
            trust = Trust::Spent;
        }
    } else if let (Some(length), false) = (length, is_chunked) {
        set_length(headers, length);
    }
    Ok(Framing { trust, length, is_chunked })
}

/// Leaves one line, in normal form: as it is, where there is no other and it is, as mostly.
fn set_length(headers: &mut HeaderMap, length: u64) {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let is_normal = |line: &HeaderValue| match line.as_bytes() {
        [b'0'] => true,
        digits @ [b'1'..=b'9', ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !matches!((lines.next(), lines.next()), (Some(line), None) if is_normal(line)) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

fn length(headers: &HeaderMap) -> Result<Option<u64>, FramingError> {
    let mut known = None;
    for line in headers.get_all(header::CONTENT_LENGTH) {
        let text = line.to_str().map_err(|_not_ascii| FramingError::Length)?;
        for member in text.split(',').map(|member| member.trim_matches([' ', '\t'])) {
            // `parse` alone would take a sign.
            let digits = member.bytes().all(|byte| byte.is_ascii_digit());
            let length =
                member.parse().ok().filter(|length| digits && *length <= LARGEST).ok_or(FramingError::Length)?;
            if known.is_some_and(|known| known != length) {
                return Err(FramingError::Length);
            }
            known = Some(length);
        }
    }
    Ok(known)
}

fn is_chunked(headers: &HeaderMap) -> Result<bool, FramingError> {
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(false),
        (Some(line), None) if line.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        (Some(_), _) => Err(FramingError::Coding),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, lines: &[(&'static str, &'static str)]) -> Result<(Trust, Vec<String>), FramingError> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let Framing { trust, .. } = judge(StatusCode::from_u16(status).unwrap(), &mut headers)?;
        let lengths = headers.get_all(header::CONTENT_LENGTH).iter().map(|line| line.to_str().unwrap().to_owned());
        Ok((trust, lengths.collect()))
    }

    #[test]
    fn equal_lengths_become_one_and_others_are_refused() {
        for lines in [&[("content-length", "5")][..], &[("content-length", "5, 005")], &[("content-length", "5"); 2]] {
            assert_eq!(judged(200, lines), Ok((Trust::Kept, vec!["5".to_owned()])), "{lines:?}");
        }
        assert_eq!(judged(200, &[("content-length", "5"), ("content-length", "6")]), Err(FramingError::Length));
        for value in ["5, 6", "-5", "+5", "", "5,", "0x5", "5 5", "1e1", "18446744073709551616"] {
            // Also where hyper would not look, because there is no body: a client would.
            for status in [200, 204, 304] {
                assert_eq!(judged(status, &[("content-length", value)]), Err(FramingError::Length), "{value}");
            }
        }
    }

    #[test]
    fn only_chunked_is_a_coding() {
        assert_eq!(judged(200, &[("transfer-encoding", "Chunked")]), Ok((Trust::Kept, Vec::new())));
        for value in ["gzip", "gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked;q=1", ""] {
            assert_eq!(judged(200, &[("transfer-encoding", value)]), Err(FramingError::Coding), "{value}");
        }
        assert_eq!(judged(200, &[("transfer-encoding", "chunked"); 2]), Err(FramingError::Coding));
    }

    #[test]
    fn a_doubtful_end_costs_the_connection() {
        let both = [("content-length", "5"), ("transfer-encoding", "chunked")];
        assert_eq!(judged(200, &both), Ok((Trust::Spent, Vec::new())));
        assert_eq!(judged(204, &[("content-length", "5")]), Ok((Trust::Spent, Vec::new())));
        assert_eq!(judged(204, &[("transfer-encoding", "chunked")]), Ok((Trust::Spent, Vec::new())));
        assert_eq!(judged(204, &[("content-length", "0")]), Ok((Trust::Kept, Vec::new())));
        assert_eq!(judged(304, &[("content-length", "5")]), Ok((Trust::Kept, vec!["5".to_owned()])));
    }

    #[test]
    fn codes_end_at_599() {
        assert_eq!(judged(599, &[]), Ok((Trust::Kept, Vec::new())));
        assert_eq!(judged(600, &[]), Err(FramingError::Status(600)));
        assert_eq!(judged(999, &[]), Err(FramingError::Status(999)));
    }
}
