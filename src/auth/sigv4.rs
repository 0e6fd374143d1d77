//! Signature Version 4 of one request, by the rules that API Gateway checks (docs/aws.md A1 to A4).
//!
//! The signed set is ours and small: `host`, every `x-amz-*` field that is sent, `content-type`, the date and the session
//! token. What a later hop may change is never signed. `aws-sigv4` computes; nothing is applied here. Requests under way
//! have a faster signer, `auth::signer`; this one signs calls of our own and is what that one is measured by. Imports
//! `auth::request`.

use std::sync::Arc;
use std::time::SystemTime;

use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::error::AuthError;
use super::request::Unsigned;
use super::spec::PayloadSigning;

/// With those that the signer adds.
const USUAL_FIELDS: usize = 8;

/// What a signature is for.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Region.
    pub region: String,
    /// Service.
    pub service: String,
    /// Whether the body is covered.
    pub payload: PayloadSigning,
}

/// Signs `request` at `time`; returns the fields to add.
///
/// # Errors
/// [`AuthError::Unsignable`] for an `x-amz-*` field that is not plain text; [`AuthError::Signing`] when the signer
/// refuses, which the request-target rules rule out.
///
/// # Panics
/// Never: all that the signer's parameters need is given here.
pub fn authorize(
    request: &Unsigned<'_>,
    identity: &Identity,
    scope: &Scope,
    time: SystemTime,
) -> Result<Vec<(HeaderName, HeaderValue)>, AuthError> {
    let fields = signed_fields(request)?;
    let body = match (scope.payload, request.payload) {
        (PayloadSigning::Unsigned, _) => SignableBody::UnsignedPayload,
        (PayloadSigning::Signed, Some(hash)) => SignableBody::Precomputed(hash.as_str().to_owned()),
        (PayloadSigning::Signed, None) => SignableBody::empty(),
    };
    // The scheme is not signed; the authority and the target are, byte for byte.
    let uri = format!("https://{}{}", request.authority, request.path_and_query);
    #[expect(clippy::expect_used, reason = "building fails only when a parameter is missing, and all five stand here")]
    let params = v4::SigningParams::builder()
        .identity(identity)
        .region(&scope.region)
        .name(&scope.service)
        .time(time)
        .settings(settings(scope.payload))
        .build()
        .expect("all parameters are given")
        .into();
    let signed = SignableRequest::new(request.method.as_str(), uri, fields.into_iter(), body)
        .and_then(|signable| sign(signable, &params))
        .map_err(|error| AuthError::Signing(Arc::new(error)))?;
    let (instructions, _signature) = signed.into_parts();
    let (fields, _no_query_parameters) = instructions.into_parts();
    let written = fields.into_iter().map(|field| {
        let name = HeaderName::from_static(field.name());
        let Ok(mut value) = HeaderValue::from_str(field.value()) else { return Err(AuthError::NotAFieldValue(name)) };
        value.set_sensitive(field.sensitive() || name == header::AUTHORIZATION);
        Ok((name, value))
    });
    written.collect()
}

fn settings(payload: PayloadSigning) -> SigningSettings {
    // The defaults are execute-api's: path encoded twice and normalised, no content hash field, token included.
    let mut settings = SigningSettings::default();
    if payload == PayloadSigning::Unsigned {
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    settings
}

/// The fields to sign, besides those that the signer adds.
pub(super) fn signed_fields<'a>(request: &Unsigned<'a>) -> Result<Vec<(&'a str, &'a str)>, AuthError> {
    let mut fields = Vec::with_capacity(USUAL_FIELDS);
    fields.push(("host", request.authority.as_str()));
    for (name, value) in request.headers {
        let must_be_signed = name.as_str().starts_with("x-amz-");
        if !must_be_signed && (name != header::CONTENT_TYPE || is_repeated(request.headers, name)) {
            continue;
        }
        match plain_text(value) {
            Some(text) => fields.push((name.as_str(), text)),
            None if must_be_signed => return Err(AuthError::Unsignable(name.clone())),
            // Signing content-type is optional; AWS may read odd bytes in another way than we do.
            None => {}
        }
    }
    Ok(fields)
}

fn is_repeated(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().nth(1).is_some()
}

/// The value if all signers read it alike: printable ASCII and single spaces (they trim and fold white space differently).
fn plain_text(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    let odd = text.contains('\t') || text.contains("  ") || text.trim() != text;
    (!odd).then_some(text)
}
