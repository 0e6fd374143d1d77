//! Signature Version 4 for requests under way, in a fraction of the time that `aws-sigv4` takes.
//!
//! Three things make the difference: the signing key holds for a day and is derived once, the canonical request is written
//! into one text, and a target that has its canonical form already is not taken apart again. What is not of that plain
//! kind is signed by [`sigv4::authorize`], which is also what a test compares a million signatures with. Imports
//! `auth::{canonical, sigv4}`, `clock`.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use aws_credential_types::Credentials;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_smithy_runtime_api::client::identity::Identity;
use http::{HeaderName, HeaderValue, header};
use zeroize::Zeroizing;

use super::canonical::{self, Added, Canonical, canonical};
use super::error::AuthError;
use super::request::Unsigned;
use super::sigv4::{self, Scope};
use super::spec::PayloadSigning;
use crate::clock::civil::Civil;
use crate::message::body::Sha256Hex;

const X_AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const X_AMZ_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const X_AMZ_CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const UNSIGNED_PAYLOAD: HeaderValue = HeaderValue::from_static(canonical::UNSIGNED_PAYLOAD);
/// `20261121T083000Z`.
const DATE_LENGTH: usize = 16;

/// Signs for one scope, with keys of which there is one at a time.
pub struct Signer {
    scope: Scope,
    last: ArcSwapOption<Derived>,
}

/// What was made from keys, and holds for a day.
struct Derived {
    generation: u64,
    date: String,
    key: hmac::Key,
    /// `20261121/eu-west-1/execute-api/aws4_request`.
    scope: String,
    /// What a signature begins with, up to the names of the signed fields.
    credential: String,
    token: Option<HeaderValue>,
}

impl Signer {
    /// A signer for `scope`.
    pub fn new(scope: Scope) -> Self {
        Self { scope, last: ArcSwapOption::empty() }
    }

    /// What its signatures are for.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Signs `request` at `time` with `identity`, the keys of this `generation`; returns the fields to add.
    ///
    /// # Errors
    /// As [`sigv4::authorize`].
    pub fn authorize(
        &self,
        request: &Unsigned<'_>,
        identity: &Identity,
        generation: u64,
        time: SystemTime,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, AuthError> {
        match identity.data::<Credentials>() {
            Some(keys) if canonical::is_plain(request.path_and_query) => self.sign(request, keys, generation, time),
            _ => sigv4::authorize(request, identity, &self.scope, time),
        }
    }

    fn sign(
        &self,
        request: &Unsigned<'_>,
        keys: &Credentials,
        generation: u64,
        time: SystemTime,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, AuthError> {
        let mut date = String::with_capacity(DATE_LENGTH);
        let time = Civil::of(time);
        time.push_date(&mut date, "");
        let derived = self.derived(keys, generation, &date)?;
        date.push('T');
        time.push_time(&mut date, "");
        date.push('Z');
        let added = Added { date: &date, security_token: keys.session_token() };
        let Canonical { text, signed } = canonical(request, &self.scope, &added)?;
        let hash = Sha256Hex::of(text.as_bytes());
        let mut authorization = String::with_capacity(derived.credential.len() + signed.len() + 80);
        authorization.push_str(&derived.credential);
        authorization.push_str(text.get(signed).unwrap_or_default());
        authorization.push_str(", Signature=");
        // Its room is enough for what is signed.
        let mut to_sign = text;
        to_sign.clear();
        for part in ["AWS4-HMAC-SHA256\n", &date, "\n", &derived.scope, "\n", hash.as_str()] {
            to_sign.push_str(part);
        }
        let signature = hmac::sign(&derived.key, to_sign.as_bytes());
        authorization.push_str(Sha256Hex::written(signature.as_ref()).as_str());
        let mut fields = Vec::with_capacity(4);
        fields.push((X_AMZ_DATE, value(X_AMZ_DATE, date)?));
        let mut authorization = value(header::AUTHORIZATION, authorization)?;
        authorization.set_sensitive(true);
        fields.push((header::AUTHORIZATION, authorization));
        if let Some(token) = &derived.token {
            fields.push((X_AMZ_SECURITY_TOKEN, token.clone()));
        }
        if self.scope.payload == PayloadSigning::Unsigned {
            fields.push((X_AMZ_CONTENT_SHA256, UNSIGNED_PAYLOAD));
        }
        Ok(fields)
    }

    /// What holds for the day `date`, such as `20261121`.
    fn derived(&self, keys: &Credentials, generation: u64, date: &str) -> Result<Arc<Derived>, AuthError> {
        let last = self.last.load_full();
        if let Some(last) = last.filter(|last| last.generation == generation && last.date == date) {
            return Ok(last);
        }
        let Scope { region, service, .. } = &self.scope;
        let secret = Zeroizing::new(format!("AWS4{}", keys.secret_access_key()));
        let mut key = hmac::Key::new(HMAC_SHA256, secret.as_bytes());
        for part in [date, region, service, "aws4_request"] {
            key = hmac::Key::new(HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        let token = keys.session_token().map(|token| value(X_AMZ_SECURITY_TOKEN, token.to_owned()));
        let mut token = token.transpose()?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        let scope = format!("{date}/{region}/{service}/aws4_request");
        let credential = format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=", keys.access_key_id());
        let derived = Arc::new(Derived { generation, date: date.to_owned(), key, scope, credential, token });
        self.last.store(Some(Arc::clone(&derived)));
        Ok(derived)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("scope", &self.scope).finish_non_exhaustive()
    }
}

fn value(name: HeaderName, text: String) -> Result<HeaderValue, AuthError> {
    HeaderValue::try_from(text).map_err(|_not_visible_ascii| AuthError::NotAFieldValue(name))
}
