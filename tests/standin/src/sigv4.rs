//! Verifies AWS Signature Version 4 as API Gateway and STS do (docs/aws.md A1 to A5), strictly: the real payload hash, the
//! real clock, the real scope, and every `x-amz-*` field signed.
//!
//! Knows no presigned URLs, no SigV4a and no chunked signatures. Shares no code with any signer.

mod canonical;

use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::clock::{iso_basic, parse_iso_basic};
use crate::encoding::{hex, sha256_hex};
use crate::keys::{AccessKey, AccessKeys};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// A request as it arrived.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// As in the request line.
    pub method: &'a str,
    /// Path and query as on the wire.
    pub target: &'a str,
    /// `:authority`, where the request has one in place of `Host`.
    pub authority: Option<&'a str>,
    /// Names in lower case.
    pub headers: &'a [(String, Vec<u8>)],
    /// SHA-256 of the body received, in hex.
    pub payload: &'a str,
}

/// What a service insists on.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Region of the scope.
    pub region: &'a str,
    /// Service of the scope.
    pub service: &'a str,
    /// How far the signing time may be off, either way.
    pub window: Duration,
}

/// Why a request was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no `Authorization`.
    Missing,
    /// `Authorization` or the date cannot be read; with AWS's words.
    Incomplete(String),
    /// Readable, but not acceptable whoever signed it: time, scope, a field left unsigned; with AWS's words.
    Unacceptable(String),
    /// No such key, or a session token that is not the key's.
    UnknownKey,
    /// The key's session is over.
    ExpiredKey,
    /// Something is not what was signed.
    Mismatch {
        /// The canonical request of what arrived.
        canonical: String,
        /// The string to sign made of it.
        string_to_sign: String,
    },
}

/// The parameters of an `Authorization` field.
struct Parameters<'a> {
    key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    terminator: &'a str,
    signed: Vec<&'a str>,
    signature: &'a str,
}

/// Finds who signed a request, if its signature is good.
///
/// # Errors
/// [`Refusal`], with AWS's words where AWS has any.
pub fn verify(
    request: &Presented<'_>,
    rules: &Rules<'_>,
    keys: &AccessKeys,
    now: SystemTime,
) -> Result<AccessKey, Refusal> {
    let authorization = match request.values("authorization").as_slice() {
        [] => return Err(Refusal::Missing),
        [one] => std::str::from_utf8(one).map_err(|error| Refusal::Incomplete(error.to_string()))?,
        [_, _, ..] => return Err(Refusal::Incomplete("more than one Authorization field".to_owned())),
    };
    let parameters = Parameters::parse(authorization)?;
    let date = signing_date(request)?;
    let key = known_key(request, parameters.key_id, keys, now)?;
    parameters.check_scope(rules, date)?;
    check_time(date, rules.window, now)?;
    check_signed_fields(request, &parameters.signed)?;

    let canonical = canonical::request(request, &parameters.signed);
    let string_to_sign = string_to_sign(&canonical, date, rules);
    let claimed = request.values("x-amz-content-sha256");
    // AWS hashes what it received; a field that claims another hash (or none, UNSIGNED-PAYLOAD) is not believed.
    let payload_is_true = claimed.iter().all(|claim| claim == &request.payload.as_bytes());
    if payload_is_true && signature(&key.secret, date, rules, &string_to_sign) == parameters.signature {
        Ok(key)
    } else {
        Err(Refusal::Mismatch { canonical, string_to_sign })
    }
}

/// AWS's words on an `Authorization` that is no signature; `None` if it reads as one.
pub(crate) fn complaint(authorization: &str) -> Option<String> {
    match Parameters::parse(authorization) {
        Err(Refusal::Incomplete(words)) => Some(words),
        _ => None,
    }
}

impl<'a> Parameters<'a> {
    fn parse(authorization: &'a str) -> Result<Self, Refusal> {
        let malformed = || {
            let hash = STANDARD.encode(digest::digest(&digest::SHA256, authorization.as_bytes()));
            Refusal::Incomplete(format!(
                "Invalid key=value pair (missing equal-sign) in Authorization header (hashed with SHA-256 and encoded \
                 with Base64): '{hash}'."
            ))
        };
        let (algorithm, rest) = authorization.split_once(' ').ok_or_else(malformed)?;
        if algorithm != ALGORITHM {
            return Err(malformed());
        }
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for parameter in rest.split(',') {
            match parameter.trim().split_once('=').ok_or_else(malformed)? {
                ("Credential", value) => credential = Some(value),
                ("SignedHeaders", value) => signed = Some(value),
                ("Signature", value) => signature = Some(value),
                _ => return Err(malformed()),
            }
        }
        let lacks = |name: &str| Refusal::Incomplete(format!("Authorization header requires '{name}' parameter."));
        let credential = credential.ok_or_else(|| lacks("Credential"))?;
        let signed = signed.ok_or_else(|| lacks("SignedHeaders"))?;
        let signature = signature.ok_or_else(|| lacks("Signature"))?;
        let [key_id, date, region, service, terminator] = credential.split('/').collect::<Vec<_>>()[..] else {
            return Err(Refusal::Incomplete(
                "Credential must have exactly 5 slash-delimited elements, e.g. \
                 keyid/date/region/service/term."
                    .to_owned(),
            ));
        };
        Ok(Self { key_id, date, region, service, terminator, signed: signed.split(';').collect(), signature })
    }

    fn check_scope(&self, rules: &Rules<'_>, date: &str) -> Result<(), Refusal> {
        let (day, _) = date.split_at(8);
        let message = if self.terminator != "aws4_request" {
            format!("Credential should be scoped with a valid terminator: 'aws4_request', not '{}'.", self.terminator)
        } else if self.region != rules.region {
            format!("Credential should be scoped to a valid region, not '{}'. ", self.region)
        } else if self.service != rules.service {
            format!("Credential should be scoped to correct service: '{}'. ", rules.service)
        } else if self.date != day {
            format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: \
                 '{}' != '{day}', from '{date}'.",
                self.date
            )
        } else {
            return Ok(());
        };
        Err(Refusal::Unacceptable(message))
    }
}

/// The value of `x-amz-date`, known to be a date.
fn signing_date<'a>(request: &Presented<'a>) -> Result<&'a str, Refusal> {
    let date = match request.values("x-amz-date").as_slice() {
        [date] => std::str::from_utf8(date).ok().filter(|date| parse_iso_basic(date).is_some()),
        _ => None,
    };
    date.ok_or_else(|| {
        Refusal::Incomplete(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. Date must be in \
             ISO-8601 'basic format'."
                .to_owned(),
        )
    })
}

fn known_key(request: &Presented<'_>, id: &str, keys: &AccessKeys, now: SystemTime) -> Result<AccessKey, Refusal> {
    let key = keys.get(id).ok_or(Refusal::UnknownKey)?;
    let tokens = request.values("x-amz-security-token");
    let expected: Vec<&[u8]> = key.session_token.iter().map(String::as_bytes).collect();
    if tokens != expected {
        return Err(Refusal::UnknownKey);
    }
    if key.expires.is_some_and(|expires| expires <= now) {
        return Err(Refusal::ExpiredKey);
    }
    Ok(key)
}

fn check_time(date: &str, window: Duration, now: SystemTime) -> Result<(), Refusal> {
    let signed = parse_iso_basic(date).expect("signing_date has parsed it");
    let (minutes, shown) = (window.as_secs() / 60, iso_basic(now));
    let message = if signed + window < now {
        let limit = iso_basic(now - window);
        format!("Signature expired: {date} is now earlier than {limit} ({shown} - {minutes} min.)")
    } else if signed > now + window {
        let limit = iso_basic(now + window);
        format!("Signature not yet current: {date} is still later than {limit} ({shown} + {minutes} min.)")
    } else {
        return Ok(());
    };
    Err(Refusal::Unacceptable(message))
}

fn check_signed_fields(request: &Presented<'_>, signed: &[&str]) -> Result<(), Refusal> {
    if !signed.is_sorted_by(|one, next| one < next) || signed.iter().any(|name| *name != name.to_lowercase()) {
        return Err(Refusal::Unacceptable(format!("SignedHeaders are not sorted lower case: '{}'", signed.join(";"))));
    }
    if !signed.contains(&"host") {
        let words = "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.";
        return Err(Refusal::Unacceptable(words.to_owned()));
    }
    for (name, _) in request.headers {
        if name.starts_with("x-amz-") && !signed.contains(&name.as_str()) {
            let words = format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.");
            return Err(Refusal::Unacceptable(words));
        }
    }
    Ok(())
}

fn string_to_sign(canonical: &str, date: &str, rules: &Rules<'_>) -> String {
    let (day, _) = date.split_at(8);
    let hash = sha256_hex(canonical.as_bytes());
    format!("{ALGORITHM}\n{date}\n{day}/{}/{}/aws4_request\n{hash}", rules.region, rules.service)
}

fn signature(secret: &str, date: &str, rules: &Rules<'_>, string_to_sign: &str) -> String {
    let (day, _) = date.split_at(8);
    let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let key = mac(format!("AWS4{secret}").as_bytes(), day);
    let key = mac(key.as_ref(), rules.region);
    let key = mac(key.as_ref(), rules.service);
    let key = mac(key.as_ref(), "aws4_request");
    hex(mac(key.as_ref(), string_to_sign).as_ref())
}

impl<'a> Presented<'a> {
    fn values(&self, name: &str) -> Vec<&'a [u8]> {
        let named = self.headers.iter().filter(|(candidate, _)| candidate == name);
        named.map(|(_, value)| value.as_slice()).collect()
    }
}

/// Signs a request the way a client would, for the tests of this crate's doubles.
#[cfg(test)]
pub(crate) fn sign(
    request: &Presented<'_>,
    rules: &Rules<'_>,
    key: &AccessKey,
    now: SystemTime,
) -> Vec<(String, Vec<u8>)> {
    let date = iso_basic(now);
    let mut added = vec![("x-amz-date".to_owned(), date.clone().into_bytes())];
    added.extend(key.session_token.iter().map(|token| ("x-amz-security-token".to_owned(), token.clone().into_bytes())));
    let headers: Vec<_> = request.headers.iter().chain(&added).cloned().collect();
    let mut signed: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    signed.sort_unstable();
    signed.dedup();
    let canonical = canonical::request(&Presented { headers: &headers, ..*request }, &signed);
    let signature = signature(&key.secret, &date, rules, &string_to_sign(&canonical, &date, rules));
    let scope = format!("{}/{}/{}/aws4_request", date.split_at(8).0, rules.region, rules.service);
    let signed = signed.join(";");
    let authorization =
        format!("{ALGORITHM} Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}", key.id);
    added.push(("authorization".to_owned(), authorization.into_bytes()));
    added
}

#[cfg(test)]
mod tests;
