//! Small codecs: hex, percent-encoding, forms, and random names. Written here so that a verifier shares none with the
//! code it judges.

use std::fmt::Write as _;

use aws_lc_rs::{digest, rand};

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every write");
        text
    })
}

/// The SHA-256 of these bytes, in hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// Undoes percent-encoding, to bytes, where a raw `+` is a space: in forms, and in queries as API Gateway reads them
/// (docs/aws.md A2). An escape that is none stays as it is.
pub(crate) fn form_decode(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let escape = match tail {
            [high, low, after @ ..] if first == b'%' => nibble(*high).zip(nibble(*low)).map(|pair| (pair, after)),
            _ => None,
        };
        if let Some(((high, low), after)) = escape {
            decoded.push(high << 4 | low);
            rest = after;
        } else {
            decoded.push(if first == b'+' { b' ' } else { first });
            rest = tail;
        }
    }
    decoded
}

/// Percent-encodes every byte but `A-Za-z0-9-_.~` and those in `also_plain`, in upper-case hex.
pub(crate) fn percent_encode(bytes: &[u8], also_plain: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut text, &byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || also_plain.contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a String takes every write");
        }
        text
    })
}

/// The fields of an `application/x-www-form-urlencoded` body, in order.
pub(crate) fn parse_form(body: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&form_decode(bytes)).into_owned();
    body.split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (text(&pair[..at]), text(&pair[at + 1..])),
            None => (text(pair), String::new()),
        })
        .collect()
}

/// So many random bytes, in hex: for secrets, session tokens and ids.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::fill(&mut random).expect("the system gives random bytes");
    hex(&random)
}

/// A random request id, `8-4-4-4-12` like those of AWS.
pub(crate) fn request_id() -> String {
    let digits = random_hex(16);
    let mut id = String::with_capacity(36);
    for (at, digit) in digits.chars().enumerate() {
        if [8, 12, 16, 20].contains(&at) {
            id.push('-');
        }
        id.push(digit);
    }
    id
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_escape_stays_as_it_is() {
        assert_eq!(form_decode(b"%41%zz%4+%2B"), b"A%zz%4 +");
    }

    #[test]
    fn only_unreserved_bytes_stay_plain() {
        assert_eq!(percent_encode(b"a-_.~/ \xff*", b"/"), "a-_.~/%20%FF%2A");
    }

    #[test]
    fn a_form_keeps_order_and_duplicates() {
        let form = parse_form(b"b=1+2&a&&b=%3D");
        let form: Vec<_> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(form, [("b", "1 2"), ("a", ""), ("b", "=")]);
    }
}
