//! API Gateway's refusals, word for word (docs/aws.md A9).

use http::{HeaderValue, Response};
use serde_json::{Value, json};

use super::ApiKind;
use crate::body::{Body, full};
use crate::sigv4;

/// What is wrong with a request.
#[derive(Debug)]
pub(super) enum Denial {
    /// No such path; with what a REST API says of an `Authorization` that is no signature.
    NotFound(Option<String>),
    /// A wrong or missing API key, and every other thing that is not to be explained.
    Forbidden,
    /// The payload has more than 10 MB.
    TooLarge,
    NoToken,
    BadToken,
    ExpiredToken,
    /// The token lacks this scope.
    MissingScope(String),
    Signature(sigv4::Refusal),
}

/// A refusal, and for the test why.
#[derive(Debug)]
pub(super) struct Refusal {
    denial: Denial,
    pub(super) reason: String,
}

/// A response's status, `x-amzn-errortype`, `www-authenticate` and message.
struct Words {
    status: u16,
    error_type: Option<&'static str>,
    challenge: Option<String>,
    message: String,
}

impl Denial {
    pub(super) fn because(self, reason: &str) -> Refusal {
        Refusal { denial: self, reason: reason.to_owned() }
    }

    fn rest(self) -> Words {
        let words = |status, error_type, message: &str| Words {
            status,
            error_type: Some(error_type),
            challenge: None,
            message: message.to_owned(),
        };
        match self {
            Self::NotFound(Some(message)) => words(403, "IncompleteSignatureException", &message),
            Self::NotFound(None) => words(403, "MissingAuthenticationTokenException", "Missing Authentication Token"),
            Self::Forbidden => words(403, "ForbiddenException", "Forbidden"),
            Self::TooLarge => words(413, "RequestTooLargeException", "Request Too Long"),
            Self::ExpiredToken => words(401, "UnauthorizedException", "The incoming token has expired"),
            Self::NoToken | Self::BadToken | Self::MissingScope(_) => {
                words(401, "UnauthorizedException", "Unauthorized")
            }
            Self::Signature(refusal) => {
                let (error_type, message) = signature(refusal);
                words(403, error_type, &message)
            }
        }
    }

    fn http(self) -> Words {
        let words =
            |status, message: &str| Words { status, error_type: None, challenge: None, message: message.to_owned() };
        let unauthorized =
            |challenge: &str| Words { challenge: Some(challenge.to_owned()), ..words(401, "Unauthorized") };
        let invalid = |description: &str| {
            unauthorized(&format!("Bearer scope=\"\" error=\"invalid_token\" error_description=\"{description}\""))
        };
        match self {
            Self::NotFound(_) => words(404, "Not Found"),
            Self::Forbidden | Self::Signature(_) => words(403, "Forbidden"),
            Self::TooLarge => words(413, "Request Entity Too Large"),
            Self::NoToken => unauthorized("Bearer"),
            Self::BadToken => invalid("the token has an invalid signature"),
            Self::ExpiredToken => invalid("the token has expired"),
            Self::MissingScope(scope) => {
                let challenge = format!("Bearer scope=\"{scope}\" error=\"insufficient_scope\"");
                Words { challenge: Some(challenge), ..words(403, "Forbidden") }
            }
        }
    }
}

impl Refusal {
    /// May the rest of the body be read, so that its sender sees this and not a reset?
    pub(super) fn allows_draining(&self) -> bool {
        !matches!(self.denial, Denial::TooLarge)
    }

    pub(super) fn into_response(self, kind: ApiKind) -> Response<Body> {
        let Words { status, error_type, challenge, message } = match kind {
            ApiKind::Rest => self.denial.rest(),
            ApiKind::Http => self.denial.http(),
        };
        let body: Value = json!({"message": message});
        let mut response = Response::new(full(body.to_string()));
        *response.status_mut() = http::StatusCode::from_u16(status).expect("the statuses above are valid");
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        if let Some(error_type) = error_type {
            headers.insert("x-amzn-errortype", HeaderValue::from_static(error_type));
        }
        if let Some(challenge) = challenge {
            let challenge = HeaderValue::try_from(challenge).expect("scopes of a test are valid in a field");
            headers.insert("www-authenticate", challenge);
        }
        response
    }
}

fn signature(refusal: sigv4::Refusal) -> (&'static str, String) {
    match refusal {
        sigv4::Refusal::Missing => ("MissingAuthenticationTokenException", "Missing Authentication Token".to_owned()),
        sigv4::Refusal::Incomplete(words) => ("IncompleteSignatureException", words),
        sigv4::Refusal::Unacceptable(words) => ("InvalidSignatureException", words),
        sigv4::Refusal::UnknownKey => {
            ("UnrecognizedClientException", "The security token included in the request is invalid.".to_owned())
        }
        sigv4::Refusal::ExpiredKey => {
            ("ExpiredTokenException", "The security token included in the request is expired".to_owned())
        }
        sigv4::Refusal::Mismatch { canonical, string_to_sign } => (
            "InvalidSignatureException",
            format!(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
                 Access Key and signing method. Consult the service documentation for details.\n\nThe Canonical String \
                 for this request should have been\n'{canonical}'\n\nThe String-to-Sign should have been\n\
                 '{string_to_sign}'\n"
            ),
        ),
    }
}
