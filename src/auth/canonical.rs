//! The canonical request of Signature Version 4: what requests are signed by, and what `explain` shows.
//!
//! The tests compare it with that of `aws-sigv4`. Imports `auth`, `message`.

use std::borrow::Cow;
use std::ops::Range;

use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::error::AuthError;
use super::request::Unsigned;
use super::sigv4::{self, Scope};
use super::spec::PayloadSigning;
use crate::message::body::Sha256Hex;

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');
/// In the place of a hash.
pub(super) const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// Room for most requests.
const USUAL: usize = 512;

/// The fields that a signer adds, in the order in which they are signed.
#[derive(Clone, Debug)]
pub struct Added<'a> {
    /// `x-amz-date`, such as `20261121T083000Z`.
    pub date: &'a str,
    /// `x-amz-security-token`, of temporary keys.
    pub security_token: Option<&'a str>,
}

/// A canonical request.
pub(super) struct Canonical {
    pub(super) text: String,
    /// Where in it the names of the signed fields stand, with `;` between them.
    pub(super) signed: Range<usize>,
}

/// The canonical request (docs/aws.md A1 to A4), six parts on lines of their own.
///
/// # Errors
/// [`AuthError::Unsignable`] as for signing.
pub fn canonical_request(request: &Unsigned<'_>, scope: &Scope, added: &Added<'_>) -> Result<String, AuthError> {
    canonical(request, scope, added).map(|Canonical { text, .. }| text)
}

/// The same, with the place of what a signature tells of it.
pub(super) fn canonical(request: &Unsigned<'_>, scope: &Scope, added: &Added<'_>) -> Result<Canonical, AuthError> {
    let of_nothing = Sha256Hex::of_nothing();
    let (payload, content) = match (scope.payload, request.payload) {
        (PayloadSigning::Unsigned, _) => (UNSIGNED_PAYLOAD, Some(UNSIGNED_PAYLOAD)),
        (PayloadSigning::Signed, hash) => (hash.unwrap_or(&of_nothing).as_str(), None),
    };
    let mut fields = sigv4::signed_fields(request)?;
    for (name, value) in [
        ("x-amz-date", Some(added.date)),
        ("x-amz-security-token", added.security_token),
        ("x-amz-content-sha256", content),
    ] {
        if let Some(value) = value {
            // It takes the place of one that is there.
            fields.retain(|(other, _)| *other != name);
            fields.push((name, value));
        }
    }
    // Stable: the values of one field keep their order.
    fields.sort_by_key(|(name, _)| *name);
    let mut text = String::with_capacity(USUAL + added.security_token.map_or(0, str::len));
    text.push_str(request.method.as_str());
    text.push('\n');
    push_path(&mut text, request.path_and_query.path());
    text.push('\n');
    push_query(&mut text, request.path_and_query.query().unwrap_or_default());
    let mut before = "";
    for (name, value) in &fields {
        if *name == before {
            text.push(',');
        } else {
            text.push('\n');
            text.push_str(name);
            text.push(':');
        }
        text.push_str(value);
        before = name;
    }
    text.push_str("\n\n");
    let begin = text.len();
    let mut before = "";
    for (name, _) in fields.iter().filter(|(name, _)| *name != std::mem::replace(&mut before, name)) {
        if text.len() > begin {
            text.push(';');
        }
        text.push_str(name);
    }
    let signed = begin..text.len();
    text.push('\n');
    text.push_str(payload);
    Ok(Canonical { text, signed })
}

/// Whether the canonical form of a target is what is written here, as all signers read it: no segment of dots in its path from the root,
/// and a query that is in canonical form but for the order of its pairs. The targets that go out are of this kind.
pub(super) fn is_plain(target: &PathAndQuery) -> bool {
    target.path().starts_with('/') && !target.path().contains("/.") && target.query().is_none_or(is_encoded)
}

/// Whether decoding each name and value and encoding it again would change nothing.
fn is_encoded(query: &str) -> bool {
    let mut pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.all(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        [name, value].into_iter().all(|text| anew(text) == text)
    })
}

fn is_unreserved(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
}

/// Slashes collapsed, then every byte as it stands on the wire encoded once more.
fn push_path(text: &mut String, path: &str) {
    if path.split('/').all(is_unreserved) && !path.contains("//") {
        return text.push_str(path);
    }
    let mut collapsed = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !collapsed.ends_with('/') {
            collapsed.push(c);
        }
    }
    text.extend(utf8_percent_encode(&collapsed, PATH));
}

/// Pairs decoded, encoded anew and sorted.
fn push_query(text: &mut String, query: &str) {
    if query.is_empty() {
        return;
    }
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = pairs.map(|(name, value)| (anew(name), anew(value))).collect();
    pairs.sort();
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    }
}

fn anew(text: &str) -> Cow<'_, str> {
    if is_unreserved(text) {
        return text.into();
    }
    let decoded = percent_decode_str(text).decode_utf8_lossy();
    utf8_percent_encode(&decoded, UNRESERVED).to_string().into()
}
