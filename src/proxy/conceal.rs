//! Keeping back from a caller what a refusal quotes of our authorisation.
//!
//! API Gateway answers a signature that does not match with the canonical request, session token included (docs/rules.md
//! 2.5), and some services quote the token that they do not like. So in answers of 4xx each secret that the request
//! carried is replaced, in the fields and in a body that is small, of known length, plain, and text. All else streams.
//! Imports `message`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::pool::{UpstreamBody, UpstreamError};

/// Refusals are short; what is longer is a backend's own and passes as it comes.
const LARGEST: u64 = 64 * 1024;
/// A shorter value is no secret worth the name, and would be found where it does not stand.
const SHORTEST_SECRET: usize = 8;
const REDACTED: &[u8] = b"[redacted]";
/// Fields that say something of a body's bytes.
const OF_THE_BYTES: [HeaderName; 4] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// The secrets that a request carried.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<HeaderValue>);

/// A body on its way to the caller.
#[derive(Debug)]
pub enum Passage {
    /// As it comes.
    Streaming(UpstreamBody),
    /// All of it.
    Held(Bytes),
}

impl Secrets {
    /// These.
    pub fn new(values: Vec<HeaderValue>) -> Self {
        Self(values)
    }

    /// They themselves.
    pub(super) fn values(&self) -> impl Iterator<Item = &HeaderValue> {
        self.0.iter()
    }

    /// What to look for: each value, and a token without its scheme.
    fn words(&self) -> Vec<&[u8]> {
        let mut words = Vec::new();
        for whole in self.0.iter().map(HeaderValue::as_bytes) {
            words.push(whole);
            let behind = whole.iter().position(|byte| *byte == b' ').and_then(|space| whole.get(space + 1..));
            words.extend(behind.filter(|token| !token.contains(&b' ')));
        }
        words.retain(|word| word.len() >= SHORTEST_SECRET);
        words
    }
}

/// Whether an answer may have to be looked through by [`refusal`].
pub fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error()
}

/// Takes the secrets of its request out of a refusal; everything else passes as it came.
///
/// # Errors
/// [`UpstreamError`] when a body that must be looked through breaks off, or is not there within `idle`.
///
/// # Cancellation
/// Dropping the future ends the exchange with the upstream.
pub async fn refusal(
    response: Response<UpstreamBody>,
    secrets: &Secrets,
    idle: Duration,
) -> Result<Response<Passage>, UpstreamError> {
    if !is_refusal(response.status()) {
        return Ok(response.map(Passage::Streaming));
    }
    let words = secrets.words();
    if words.is_empty() {
        return Ok(response.map(Passage::Streaming));
    }
    let (mut parts, body) = response.into_parts();
    for value in parts.headers.values_mut() {
        if let Some(Ok(redacted)) = redact(value.as_bytes(), &words).map(|text| HeaderValue::from_bytes(&text)) {
            *value = redacted;
        }
    }
    if !is_small_text(&parts.headers, &body) {
        return Ok(Response::from_parts(parts, Passage::Streaming(body)));
    }
    let mut bytes = whole(body, idle).await?;
    if let Some(redacted) = redact(&bytes, &words) {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(redacted.len()));
        for name in OF_THE_BYTES {
            parts.headers.remove(name);
        }
        bytes = redacted.into();
    }
    Ok(Response::from_parts(parts, Passage::Held(bytes)))
}

fn is_small_text(headers: &HeaderMap, body: &UpstreamBody) -> bool {
    let small = body.size_hint().exact().is_some_and(|length| (1..=LARGEST).contains(&length));
    let plain = headers.get(header::CONTENT_ENCODING).is_none_or(|coding| coding == "identity");
    let text = headers.get(header::CONTENT_TYPE).is_none_or(|kind| {
        let kind = String::from_utf8_lossy(kind.as_bytes()).to_ascii_lowercase();
        ["json", "xml", "text/", "html", "urlencoded"].iter().any(|word| kind.contains(word))
    });
    small && plain && text
}

async fn whole(mut body: UpstreamBody, idle: Duration) -> Result<Bytes, UpstreamError> {
    let (mut bytes, end) = (BytesMut::new(), Instant::now() + idle);
    loop {
        let frame = timeout_at(end, body.frame()).await.map_err(|_elapsed| UpstreamError::BodyTimeout(idle))?;
        match frame {
            None => return Ok(bytes.freeze()),
            Some(frame) => {
                if let Ok(data) = frame?.into_data() {
                    bytes.extend_from_slice(&data);
                }
            }
        }
        // Nothing may poll a body that is over.
        if body.is_end_stream() {
            return Ok(bytes.freeze());
        }
    }
}

/// `text` without any of `words`; `None` if it has none of them.
fn redact(text: &[u8], words: &[&[u8]]) -> Option<Vec<u8>> {
    let mut redacted = Vec::new();
    let mut found = false;
    let mut rest = text;
    while let Some((first, next)) = rest.split_first() {
        if let Some(behind) = words.iter().find_map(|word| behind(rest, word)) {
            redacted.extend_from_slice(REDACTED);
            found = true;
            rest = behind;
        } else {
            redacted.push(*first);
            rest = next;
        }
    }
    found.then_some(redacted)
}

/// What follows `word` at the start of `text`, whose characters may be escaped one by one.
fn behind<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    word.iter().try_fold(text, |text, byte| spelled(text, *byte))
}

/// What follows `byte` at the start of `text`: as it is, in JSON (`\/`, `\u002f`), in a URL (`%2F`) or in XML (`&#47;`,
/// `&#x2F;`).
fn spelled(text: &[u8], byte: u8) -> Option<&[u8]> {
    match text {
        [first, rest @ ..] if *first == byte => Some(rest),
        [b'\\', b'u', b'0', b'0', high, low, rest @ ..] if hex([*high, *low]) == Some(byte) => Some(rest),
        [b'\\', first, rest @ ..] if *first == byte && !byte.is_ascii_alphanumeric() => Some(rest),
        [b'%', high, low, rest @ ..] if hex([*high, *low]) == Some(byte) => Some(rest),
        [b'&', b'#', b'x' | b'X', high, low, b';', rest @ ..] if hex([*high, *low]) == Some(byte) => Some(rest),
        [b'&', b'#', rest @ ..] => {
            let end = rest.iter().take(4).position(|byte| *byte == b';')?;
            let (digits, rest) = rest.split_at_checked(end)?;
            let number = std::str::from_utf8(digits).ok()?.parse::<u8>().ok()?;
            rest.get(1..).filter(|_| number == byte)
        }
        _ => None,
    }
}

fn hex(digits: [u8; 2]) -> Option<u8> {
    let text = std::str::from_utf8(&digits).ok().filter(|text| !text.starts_with('+'))?;
    u8::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &[u8] = b"IQoJ+b3/JpZ2==";

    fn redacted(text: &str) -> Option<String> {
        redact(text.as_bytes(), &[TOKEN]).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_secret_is_found_in_every_spelling() {
        for spelling in [
            "IQoJ+b3/JpZ2==",
            "IQoJ+b3\\/JpZ2==",
            "IQoJ\\u002bb3\\u002FJpZ2\\u003d\\u003D",
            "IQoJ%2Bb3%2fJpZ2%3D%3d",
            "IQoJ&#43;b3&#x2F;JpZ2&#x3d;&#61;",
            "\\u0049QoJ+b3/JpZ2=%3D",
        ] {
            let text = format!("x-amz-security-token:{spelling}\\n {spelling}");
            assert_eq!(redacted(&text).as_deref(), Some("x-amz-security-token:[redacted]\\n [redacted]"), "{spelling}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in
            ["", "IQoJ+b3/JpZ2=", "iqoj+b3/JpZ2==", "IQoJ b3/JpZ2==", "IQoJ%+Bb3", "IQoJ&#4", "IQoJ&#;", "%", "\\u00"]
        {
            assert_eq!(redacted(text), None, "{text}");
        }
        assert_eq!(redacted("IQoJIQoJ+b3/JpZ2==").as_deref(), Some("IQoJ[redacted]"));
    }

    #[test]
    fn a_token_is_looked_for_with_and_without_its_scheme_and_short_values_are_not() {
        let values = ["Bearer abc.def.ghi", "1234567", "12345678", "AWS4-HMAC-SHA256 Credential=a, Signature=b"];
        let secrets = Secrets::new(values.map(HeaderValue::from_static).to_vec());
        let mut words: Vec<&str> = secrets.words().into_iter().map(|word| std::str::from_utf8(word).unwrap()).collect();
        words.sort_unstable();
        assert_eq!(
            words,
            ["12345678", "AWS4-HMAC-SHA256 Credential=a, Signature=b", "Bearer abc.def.ghi", "abc.def.ghi"]
        );
    }
}
