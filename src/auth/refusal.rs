//! Whether an answer says that our credential, or our clock, was refused.
//!
//! Only API Gateway's own verdicts count, and those of resource servers that follow RFC 6750: a backend's 401 is its
//! business with the caller (docs/aws.md A9). A plain "Forbidden" never counts, for it means a dozen other things. Imports
//! `auth::spec`.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, WWW_AUTHENTICATE};

use super::spec::Coverage;

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token or the keys: a fresh one may be taken.
    Credential,
    /// The signature, perhaps because our clock is off.
    Clock,
}

/// What the head of an answer says of the authorisation that its request carried.
pub fn judge(coverage: Coverage, status: StatusCode, headers: &HeaderMap) -> Option<Refusal> {
    match (coverage, status) {
        (Coverage::Token, StatusCode::UNAUTHORIZED) => {
            let asks_for_bearer = headers.get_all(WWW_AUTHENTICATE).iter().any(|challenge| {
                challenge.as_bytes().get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
            });
            (asks_for_bearer || headers.contains_key(ERROR_TYPE)).then_some(Refusal::Credential)
        }
        (Coverage::Signature(_), StatusCode::FORBIDDEN) => {
            // `ExpiredTokenException:http://internal.amazon.com/…` in older services.
            let code = headers.get(ERROR_TYPE)?.to_str().ok()?.split(':').next()?;
            match code {
                "ExpiredTokenException" | "ExpiredToken" | "UnrecognizedClientException" => Some(Refusal::Credential),
                "InvalidSignatureException"
                | "SignatureDoesNotMatch"
                | "RequestTimeTooSkewed"
                | "AuthFailure"
                | "AccessDeniedException" => Some(Refusal::Clock),
                _ => None,
            }
        }
        (Coverage::Nothing | Coverage::Token | Coverage::Signature(_), _) => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::auth::spec::PayloadSigning;

    fn verdict(coverage: Coverage, status: u16, name: HeaderName, value: &'static str) -> Option<Refusal> {
        let headers = [(name, HeaderValue::from_static(value))].into_iter().collect();
        judge(coverage, StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn only_the_gateways_own_verdicts_count() {
        let signature = Coverage::Signature(PayloadSigning::Signed);
        for (coverage, status, name, value, refusal) in [
            (Coverage::Token, 401, WWW_AUTHENTICATE, "Bearer scope=\"\"", Some(Refusal::Credential)),
            (Coverage::Token, 401, ERROR_TYPE, "UnauthorizedException", Some(Refusal::Credential)),
            (Coverage::Token, 401, WWW_AUTHENTICATE, "Basic realm=\"backend\"", None),
            (Coverage::Token, 403, ERROR_TYPE, "ForbiddenException", None),
            (Coverage::Nothing, 401, WWW_AUTHENTICATE, "Bearer", None),
            (signature, 403, ERROR_TYPE, "ExpiredTokenException:http://x", Some(Refusal::Credential)),
            (signature, 403, ERROR_TYPE, "UnrecognizedClientException", Some(Refusal::Credential)),
            (signature, 403, ERROR_TYPE, "InvalidSignatureException", Some(Refusal::Clock)),
            (signature, 403, ERROR_TYPE, "MissingAuthenticationTokenException", None),
            (signature, 403, WWW_AUTHENTICATE, "Bearer", None),
            (signature, 500, ERROR_TYPE, "ExpiredTokenException", None),
        ] {
            assert_eq!(verdict(coverage, status, name, value), refusal, "{status} {value}");
        }
    }
}
