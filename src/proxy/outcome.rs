//! How a request ended: one enum for the status, the problem page, the metric label and the log field.
//!
//! Says whose fault it was. Answers carry fixed words only; what is particular goes to the log under the request id
//! (docs/rules.md 2.6). Imports `auth::error`, `message`, `route`, `server`.

use std::time::Duration;

use http::{HeaderName, Method, StatusCode};

use super::elsewhere::Known;
use super::pool::UpstreamError;
use crate::auth::error::AuthError;
use crate::message::body::BodyError;
use crate::message::target::TargetError;
use crate::message::websocket::HandshakeError;
use crate::route::NoMatch;
use crate::route::upstream::HostPort;
use crate::server::gate::head::HeadError;
use crate::tls::TlsError;

/// What a program that takes us for its proxy can do about it.
const CONNECT_REFUSED: &str = "CONNECT is refused: what passes in a tunnel is encrypted and cannot be authenticated. Write \
    the URL with http:// (the request goes on over TLS); or set connect in [proxy.forward]: \"intercept\" has requests to \
    hosts with a route authenticated all the same, \"tunnel\" has the bytes carried as they are to connect_hosts";

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The upstream's answer was passed on whole.
    Delivered,
    /// countersign answered a question about itself, or a browser's about a route.
    Answered,
    /// The client went away before the answer's end.
    ClientAborted,
    /// The upstream's answer broke off; so did ours.
    Truncated,
    /// countersign answered by itself.
    Refused(Code),
}

/// The value of `x-countersign-error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request breaks a rule of HTTP or of the target.
    BadRequest,
    /// The request-target is too long.
    UriTooLong,
    /// The head has too many bytes or fields.
    HeadTooLarge,
    /// A transfer coding that is not `chunked`.
    NotImplemented,
    /// Host, Origin, Sec-Fetch-Site or a forwarding field is not one that may call.
    CallerRefused,
    /// The caller token is missing or wrong.
    CallerToken,
    /// The same, of a program that takes us for its HTTP proxy: it waits for another status.
    ProxyToken,
    /// No route has this host and path.
    NoRoute,
    /// The route does not take the method.
    MethodNotAllowed,
    /// The body is larger than may be held for signing.
    BodyTooLarge,
    /// An Expect that nobody here meets.
    ExpectationFailed,
    /// The client stopped sending its body.
    RequestTimeout,
    /// A limit of ours is reached.
    Overloaded,
    /// No credential.
    CredentialUnavailable,
    /// Name lookup or connection.
    UpstreamUnreachable,
    /// TLS towards the upstream.
    UpstreamTls,
    /// No answer in time.
    UpstreamTimeout,
    /// The connection broke before an answer.
    UpstreamReset,
    /// The request came from a countersign.
    Loop,
}

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The program that called.
    Client,
    /// countersign, or its limits.
    Countersign,
    /// The credential's source.
    Credentials,
    /// The API or the way to it.
    Upstream,
}

impl Outcome {
    /// Label and log value; a handful in all.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Answered => "answered",
            Self::ClientAborted => "client-aborted",
            Self::Truncated => "upstream-truncated",
            Self::Refused(code) => code.as_str(),
        }
    }

    /// The same in words, for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Delivered => "The upstream's answer was passed on whole",
            Self::Answered => "countersign answered a question about itself or a route",
            Self::ClientAborted => "The client went away before the end of the answer",
            Self::Truncated => "The upstream's answer broke off",
            Self::Refused(code) => code.title(),
        }
    }
}

impl Code {
    /// As it stands in `x-countersign-error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::UriTooLong => "uri-too-long",
            Self::HeadTooLarge => "head-too-large",
            Self::NotImplemented => "not-implemented",
            Self::CallerRefused => "caller-refused",
            Self::CallerToken | Self::ProxyToken => "caller-token",
            Self::NoRoute => "no-route",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::BodyTooLarge => "body-too-large",
            Self::ExpectationFailed => "expectation-failed",
            Self::RequestTimeout => "request-timeout",
            Self::Overloaded => "overloaded",
            Self::CredentialUnavailable => "credential-unavailable",
            Self::UpstreamUnreachable => "upstream-unreachable",
            Self::UpstreamTls => "upstream-tls",
            Self::UpstreamTimeout => "upstream-timeout",
            Self::UpstreamReset => "upstream-reset",
            Self::Loop => "loop",
        }
    }

    /// The status that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::CallerRefused => StatusCode::FORBIDDEN,
            Self::CallerToken => StatusCode::UNAUTHORIZED,
            Self::ProxyToken => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded | Self::CredentialUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamUnreachable | Self::UpstreamTls | Self::UpstreamReset => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
        }
    }

    /// Who has to act.
    pub fn fault(self) -> Fault {
        match self {
            Self::BadRequest
            | Self::UriTooLong
            | Self::HeadTooLarge
            | Self::NotImplemented
            | Self::CallerRefused
            | Self::CallerToken
            | Self::ProxyToken
            | Self::NoRoute
            | Self::MethodNotAllowed
            | Self::BodyTooLarge
            | Self::ExpectationFailed
            | Self::RequestTimeout
            | Self::Loop => Fault::Client,
            Self::Overloaded => Fault::Countersign,
            Self::CredentialUnavailable => Fault::Credentials,
            Self::UpstreamUnreachable | Self::UpstreamTls | Self::UpstreamTimeout | Self::UpstreamReset => {
                Fault::Upstream
            }
        }
    }

    /// The error type of RFC 9209 2.3.
    pub fn proxy_status(self) -> &'static str {
        match self {
            Self::BadRequest
            | Self::UriTooLong
            | Self::HeadTooLarge
            | Self::NotImplemented
            | Self::MethodNotAllowed
            | Self::BodyTooLarge
            | Self::ExpectationFailed
            | Self::RequestTimeout => "http_request_error",
            Self::CallerRefused | Self::CallerToken | Self::ProxyToken => "http_request_denied",
            Self::NoRoute => "destination_not_found",
            Self::Overloaded => "connection_limit_reached",
            Self::CredentialUnavailable => "proxy_internal_error",
            Self::UpstreamUnreachable => "destination_unavailable",
            Self::UpstreamTls => "tls_protocol_error",
            Self::UpstreamTimeout => "http_response_timeout",
            Self::UpstreamReset => "http_response_incomplete",
            Self::Loop => "proxy_loop_detected",
        }
    }

    /// A few words for people; the same for every request.
    pub fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "The request breaks a rule",
            Self::UriTooLong => "The request-target is too long",
            Self::HeadTooLarge => "The request head is too large",
            Self::NotImplemented => "The transfer coding is not known here",
            Self::CallerRefused => "This caller may not use the proxy",
            Self::CallerToken | Self::ProxyToken => "The caller token is missing or wrong",
            Self::NoRoute => "No route takes this request",
            Self::MethodNotAllowed => "The route does not take this method",
            Self::BodyTooLarge => "The body is too large to be signed",
            Self::ExpectationFailed => "Only 100-continue can be expected",
            Self::RequestTimeout => "The request body stopped coming",
            Self::Overloaded => "Too many requests at once",
            Self::CredentialUnavailable => "There is no valid credential for this route",
            Self::UpstreamUnreachable => "The upstream cannot be reached",
            Self::UpstreamTls => "No trusted TLS connection to the upstream",
            Self::UpstreamTimeout => "The upstream did not answer in time",
            Self::UpstreamReset => "The upstream broke off before an answer",
            Self::Loop => "The request has already passed through countersign",
        }
    }
}

impl Fault {
    /// Log value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Countersign => "countersign",
            Self::Credentials => "credentials",
            Self::Upstream => "upstream",
        }
    }
}

/// Why countersign answers by itself.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The request-target breaks a rule.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The request head breaks a rule of HTTP.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The Host field is missing, doubled or no host name.
    #[error("{0}")]
    BadHost(&'static str),
    /// The Host is not one that callers may use.
    #[error("the Host \"{0}\" is not allowed; add it to proxy.allowed_hosts if callers should use it")]
    HostNotAllowed(String),
    /// A web page is calling.
    #[error("the request comes from a web page ({0})")]
    WebPage(&'static str),
    /// A proxy passed the request to us, and `forwarded` is "refuse".
    #[error("the request comes through another proxy ({0}), and proxy.forwarded is \"refuse\"")]
    Forwarded(HeaderName),
    /// The caller token is missing or wrong.
    #[error("the caller token is missing or wrong")]
    CallerToken,
    /// The same, of a program that takes us for its HTTP proxy.
    #[error("the caller token is missing or wrong")]
    ProxyToken,
    /// Our own Via token came back.
    #[error("the request has already passed through countersign")]
    Loop,
    /// No route.
    #[error("no route for host \"{host}\" and path \"{path}\"")]
    NoRoute {
        /// Host name of the request.
        host: String,
        /// Its path.
        path: String,
    },
    /// A URL whose host no route has.
    #[error("no route leads to \"{host}\"")]
    Unmatched {
        /// Host name of the URL.
        host: String,
        /// Those that have routes.
        known: Known,
    },
    /// A CONNECT that means no tunnel.
    #[error("{0}")]
    Tunnel(&'static str),
    /// A CONNECT to where none may lead.
    #[error("proxy.forward.connect_hosts does not list {to}")]
    TunnelNotListed {
        /// What it named.
        to: HostPort,
        /// The hosts that have routes.
        known: Known,
    },
    /// Nothing can be shown in an intercepted host's place.
    #[error("answering in the place of an intercepted host")]
    Certificate(#[source] TlsError),
    /// A route, but not for this method.
    #[error("the route does not take {method}")]
    MethodNotAllowed {
        /// What was asked.
        method: Method,
        /// What the route takes.
        allowed: Vec<Method>,
    },
    /// The method is never proxied.
    #[error("{0} is never proxied")]
    MethodNeverProxied(Method),
    /// A request for a WebSocket that nobody could answer.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// An Expect that is not `100-continue`.
    #[error("the request expects something other than 100-continue")]
    Expectation,
    /// The request body could not be read.
    #[error("taking the request body")]
    Body(#[source] BodyError),
    /// Too many requests.
    #[error("{limit} requests are in flight already ({scope})")]
    Overloaded {
        /// The limit that is reached.
        limit: usize,
        /// Of the whole process or of the route.
        scope: &'static str,
    },
    /// The request could not be authorised.
    #[error("authorising the request")]
    Auth(#[source] AuthError),
    /// The upstream gave no answer.
    #[error("sending the request to the upstream")]
    Upstream(#[source] UpstreamError),
}

impl ProxyError {
    /// What the route table's refusal of this request means to its caller.
    pub(super) fn no_match(refusal: NoMatch, host: &str, path: &str, method: &Method) -> Self {
        match refusal {
            NoMatch::NotFound => Self::NoRoute { host: host.to_owned(), path: path.to_owned() },
            NoMatch::MethodNotAllowed(allowed) => Self::MethodNotAllowed { method: method.clone(), allowed },
        }
    }

    /// Its code, and with it status, label and fault.
    pub fn code(&self) -> Code {
        match self {
            Self::Target(_)
            | Self::BadHost(_)
            | Self::Tunnel(_)
            | Self::Handshake(_)
            | Self::Auth(AuthError::Unsignable(_) | AuthError::Signing(_)) => Code::BadRequest,
            Self::Head(error) => head_code(*error),
            Self::HostNotAllowed(_) | Self::WebPage(_) | Self::Forwarded(_) => Code::CallerRefused,
            Self::CallerToken => Code::CallerToken,
            Self::ProxyToken => Code::ProxyToken,
            Self::Loop => Code::Loop,
            Self::NoRoute { .. } | Self::Unmatched { .. } | Self::TunnelNotListed { .. } => Code::NoRoute,
            Self::MethodNotAllowed { .. } | Self::MethodNeverProxied(_) => Code::MethodNotAllowed,
            Self::Expectation => Code::ExpectationFailed,
            Self::Body(error) => body_code(error),
            Self::Overloaded { .. } => Code::Overloaded,
            Self::Certificate(_) | Self::Auth(AuthError::Unavailable { .. } | AuthError::NotAFieldValue(_)) => {
                Code::CredentialUnavailable
            }
            Self::Upstream(error) => upstream_code(error),
        }
    }

    /// The rule that was broken, in words that are safe to give to any caller.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Target(error) => Some(error.to_string()),
            Self::Handshake(error) => Some(error.to_string()),
            Self::MethodNeverProxied(Method::CONNECT) => Some(CONNECT_REFUSED.into()),
            Self::Head(_)
            | Self::BadHost(_)
            | Self::Tunnel(_)
            | Self::MethodNotAllowed { .. }
            | Self::MethodNeverProxied(_) => Some(self.to_string()),
            Self::Unmatched { known, .. } => Some(format!(
                "no route leads to this host; routes lead to {known}. Add a [[route]] with the upstream https://HOST, or \
                 set unmatched = \"pass\" in [proxy.forward] to pass such requests on without a credential"
            )),
            Self::TunnelNotListed { known, .. } => Some(format!(
                "connect_hosts in [proxy.forward] does not list this host and port. Routes lead to {known}"
            )),
            Self::HostNotAllowed(_) => {
                Some("the Host is not one of localhost, 127.0.0.1, [::1], a route's host or proxy.allowed_hosts".into())
            }
            Self::WebPage(_) => {
                Some("requests of web pages (Origin, Sec-Fetch-Site) are refused, but of proxy.allowed_origins".into())
            }
            Self::Forwarded(name) => Some(format!("requests that carry {name} are refused")),
            Self::ProxyToken => Some("give it as user name or password of the proxy's URL (Basic)".into()),
            Self::CallerToken => {
                Some("send it as x-countersign-token, or as user name or password of the URL (Basic)".into())
            }
            Self::Body(
                error @ (BodyError::TooLarge { .. } | BodyError::LargerThanBudget { .. } | BodyError::NoRoom { .. }),
            ) => Some(error.to_string()),
            Self::Auth(error @ AuthError::Unsignable(_)) => Some(error.to_string()),
            Self::Auth(AuthError::Unavailable { auth, .. }) => {
                Some(format!("auth \"{auth}\" has no valid credential; the log and /readyz say why"))
            }
            Self::NoRoute { .. } => {
                Some("`countersign check` lists the routes, `countersign explain` follows a URL".into())
            }
            Self::Upstream(UpstreamError::OffLimits { .. }) => {
                Some("the host is this machine, its link or the metadata of its cloud, where no caller is led".into())
            }
            Self::Loop
            | Self::Certificate(_)
            | Self::Expectation
            | Self::Body(BodyError::Idle(_) | BodyError::Broken(_))
            | Self::Overloaded { .. }
            | Self::Auth(AuthError::Signing(_) | AuthError::NotAFieldValue(_))
            | Self::Upstream(_) => None,
        }
    }

    /// When to come back, for a 503.
    pub fn retry_after(&self) -> Option<Duration> {
        if let Self::Auth(AuthError::Unavailable { retry_after, .. }) = self {
            return Some(*retry_after);
        }
        (self.code() == Code::Overloaded).then_some(Duration::from_secs(1))
    }
}

fn head_code(error: HeadError) -> Code {
    match error {
        HeadError::TargetTooLong => Code::UriTooLong,
        HeadError::TooLarge | HeadError::TooManyFields => Code::HeadTooLarge,
        HeadError::UnknownCoding => Code::NotImplemented,
        HeadError::RequestLine
        | HeadError::Version
        | HeadError::Target(_)
        | HeadError::Scheme
        | HeadError::LineEnd
        | HeadError::Control
        | HeadError::Folded
        | HeadError::FieldName
        | HeadError::NoHost
        | HeadError::SeveralHosts
        | HeadError::Length
        | HeadError::SeveralLengths
        | HeadError::Coding
        | HeadError::CodingOfHttp10
        | HeadError::TwoFramings => Code::BadRequest,
    }
}

fn body_code(error: &BodyError) -> Code {
    match error {
        BodyError::TooLarge { .. } | BodyError::LargerThanBudget { .. } => Code::BodyTooLarge,
        BodyError::NoRoom { .. } => Code::Overloaded,
        BodyError::Idle(_) => Code::RequestTimeout,
        BodyError::Broken(_) => Code::BadRequest,
    }
}

fn upstream_code(error: &UpstreamError) -> Code {
    match error {
        UpstreamError::OffLimits { .. } => Code::NoRoute,
        UpstreamError::Resolve { .. }
        | UpstreamError::ResolveTimeout { .. }
        | UpstreamError::Connect { .. }
        | UpstreamError::ConnectTimeout { .. }
        | UpstreamError::Proxy { .. } => Code::UpstreamUnreachable,
        UpstreamError::Tls { .. } | UpstreamError::TlsTimeout { .. } => Code::UpstreamTls,
        UpstreamError::ResponseTimeout(_) | UpstreamError::BodyTimeout(_) => Code::UpstreamTimeout,
        UpstreamError::Http(_) | UpstreamError::Switched | UpstreamError::Framing(_) => Code::UpstreamReset,
    }
}
