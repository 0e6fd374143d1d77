//! The canonical request of Signature Version 4, written out for people: `explain` shows it.
//!
//! Not what signs (that is `aws-sigv4`), but what must come to the same: the tests compare the two. Imports `auth`, `message`.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::error::AuthError;
use super::request::Unsigned;
use super::sigv4::{self, Scope};
use super::spec::PayloadSigning;
use crate::message::body::Sha256Hex;

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// The fields that a signer adds, in the order in which they are signed.
#[derive(Clone, Debug)]
pub struct Added<'a> {
    /// `x-amz-date`, such as `20261121T083000Z`.
    pub date: &'a str,
    /// `x-amz-security-token`, of temporary keys.
    pub security_token: Option<&'a str>,
}

/// The canonical request (aws.md A1 to A4), six parts on lines of their own.
///
/// # Errors
/// [`AuthError::Unsignable`] as for signing.
pub fn canonical_request(request: &Unsigned<'_>, scope: &Scope, added: &Added<'_>) -> Result<String, AuthError> {
    let payload = match (scope.payload, request.payload) {
        (PayloadSigning::Unsigned, _) => "UNSIGNED-PAYLOAD".to_owned(),
        (PayloadSigning::Signed, Some(hash)) => hash.as_str().to_owned(),
        (PayloadSigning::Signed, None) => Sha256Hex::of_nothing().as_str().to_owned(),
    };
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: &str| match fields.iter_mut().find(|(known, _)| known == name) {
        Some((_, values)) => {
            values.push(',');
            values.push_str(value);
        }
        None => fields.push((name.to_owned(), value.to_owned())),
    };
    for (name, value) in sigv4::signed_fields(request)? {
        add(name, value);
    }
    add("x-amz-date", added.date);
    if let Some(token) = added.security_token {
        add("x-amz-security-token", token);
    }
    if scope.payload == PayloadSigning::Unsigned {
        add("x-amz-content-sha256", &payload);
    }
    fields.sort();
    let mut text = format!("{}\n{}\n", request.method, canonical_path(request.path_and_query.path()));
    text.push_str(&canonical_query(request.path_and_query.query().unwrap_or_default()));
    text.push('\n');
    for (name, value) in &fields {
        // Writing to a String cannot go wrong.
        let _infallible = writeln!(text, "{name}:{value}");
    }
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    let _infallible = write!(text, "\n{}\n{payload}", names.join(";"));
    Ok(text)
}

/// Slashes collapsed, then every byte as it stands on the wire encoded once more.
fn canonical_path(path: &str) -> String {
    let mut collapsed = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !collapsed.ends_with('/') {
            collapsed.push(c);
        }
    }
    utf8_percent_encode(&collapsed, PATH).to_string()
}

/// Pairs decoded, encoded anew and sorted.
fn canonical_query(query: &str) -> String {
    let anew = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8_lossy().into_owned();
        utf8_percent_encode(&decoded, UNRESERVED).to_string()
    };
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (anew(name), anew(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}
