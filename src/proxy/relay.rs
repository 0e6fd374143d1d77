//! The answer on its way back: the upstream's as it comes, or one of our own.
//!
//! A body that breaks off upstream breaks off here too; it never looks complete. Own answers say what and never where:
//! no host, address, ARN or library text (security.md 2.6). Imports `message`.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::outcome::{Code, Outcome, ProxyError};
use super::pool::UpstreamBody;
use super::record::Exchange;
use crate::message::body::IdleTimer;
use crate::message::fields::{self, ERROR_CODE, PROXY_STATUS, REQUEST_ID, Trailers};

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const X_CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

/// An answer's body, and all that must live until its end.
#[derive(Debug)]
pub struct Relayed {
    source: Source,
    exchange: Exchange,
    #[expect(dead_code, reason = "held for its drop: the request counts as in flight until its answer has ended")]
    permits: Permits,
}

/// The places a request takes among those in flight.
#[derive(Debug, Default)]
pub struct Permits(#[expect(dead_code, reason = "held for their drop")] pub(super) Vec<OwnedSemaphorePermit>);

#[derive(Debug)]
enum Source {
    Upstream { body: UpstreamBody, idle: IdleTimer, trailers: Trailers },
    Own(Option<Bytes>),
}

/// Why an answer's body broke off.
#[derive(Debug)]
pub enum RelayError {
    /// The upstream's connection broke, or its framing did.
    Upstream(hyper::Error),
    /// It sent nothing for too long.
    Idle(Duration),
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(_) => f.write_str("reading the upstream's answer"),
            Self::Idle(limit) => write!(f, "the upstream sent nothing for {limit:?} (body_idle_timeout)"),
        }
    }
}

impl Error for RelayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Upstream(error) => Some(error),
            Self::Idle(_) => None,
        }
    }
}

/// Passes an upstream's answer on.
pub fn relay(
    response: Response<UpstreamBody>,
    mut exchange: Exchange,
    permits: Permits,
    trailers: Trailers,
    idle: Duration,
) -> Response<Relayed> {
    let (mut parts, body) = response.into_parts();
    exchange.answering(parts.status);
    fields::strip_response(&mut parts.headers, trailers);
    parts.headers.entry(REQUEST_ID).or_insert_with(|| exchange.request_id().clone());
    parts.version = Version::HTTP_11;
    let source = Source::Upstream { body, idle: IdleTimer::new(idle), trailers };
    let mut relayed = Relayed { source, exchange, permits };
    // Nothing may ever poll a body that is already over, or that cannot be (RFC 9110 6.4.1).
    let bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless || relayed.exchange.method() == Some(&Method::HEAD) {
        relayed.exchange.ended(Outcome::Delivered, None);
    }
    relayed.note_end();
    Response::from_parts(parts, relayed)
}

/// Answers a question that no upstream is asked.
pub fn answer(fields: HeaderMap, mut exchange: Exchange) -> Response<Relayed> {
    exchange.answering(StatusCode::NO_CONTENT);
    exchange.ended(Outcome::Answered, None);
    let request_id = exchange.request_id().clone();
    let relayed = Relayed { source: Source::Own(None), exchange, permits: Permits::default() };
    let mut response = Response::new(relayed);
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = fields;
    response.headers_mut().insert(REQUEST_ID, request_id);
    response
}

/// Answers in the upstream's stead.
pub fn refuse(error: &ProxyError, mut exchange: Exchange) -> Response<Relayed> {
    exchange.refused(error);
    let code = error.code();
    let request_id = exchange.request_id().clone();
    let mut problem = serde_json::json!({
        "type": "about:blank",
        "title": code.title(),
        "status": code.status().as_u16(),
        "code": code.as_str(),
        "request_id": request_id.to_str().unwrap_or_default(),
    });
    if let (Some(detail), Some(members)) = (error.detail(), problem.as_object_mut()) {
        members.insert("detail".to_owned(), detail.into());
    }
    let body = Bytes::from(problem.to_string());
    let relayed = Relayed { source: Source::Own(Some(body)), exchange, permits: Permits::default() };
    let mut response = Response::new(relayed);
    *response.status_mut() = code.status();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, PROBLEM);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, request_id);
    headers.insert(ERROR_CODE, HeaderValue::from_static(code.as_str()));
    if let Ok(status) = HeaderValue::try_from(format!("countersign; error={}", code.proxy_status())) {
        headers.insert(PROXY_STATUS, status);
    }
    if let Some(after) = error.retry_after() {
        // Whole seconds, and one more: what is cut off would ask for a retry too soon.
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs() + 1));
    }
    if code == Code::CallerToken {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"countersign\""));
    }
    if let ProxyError::MethodNotAllowed { allowed, .. } = error {
        let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        if let Ok(value) = HeaderValue::try_from(allowed.join(", ")) {
            headers.insert(header::ALLOW, value);
        }
    }
    response
}

impl Relayed {
    fn note_end(&mut self) {
        // A body of known length may be dropped once all its bytes are there, without being asked for its end.
        if let Source::Upstream { body, .. } = &self.source
            && (body.is_end_stream() || body.size_hint().exact() == Some(0))
        {
            self.exchange.ended(Outcome::Delivered, None);
        }
    }

    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let Source::Upstream { body, idle, trailers } = &mut self.source else { return Poll::Ready(None) };
        let frame = match Pin::new(body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                std::task::ready!(idle.poll_elapsed(cx));
                let limit = idle.limit();
                return self.broken(RelayError::Idle(limit));
            }
        };
        idle.restart();
        match frame {
            None => {
                self.exchange.ended(Outcome::Delivered, None);
                Poll::Ready(None)
            }
            Some(Err(error)) => self.broken(RelayError::Upstream(error)),
            Some(Ok(frame)) if frame.is_trailers() && *trailers == Trailers::Unwanted => {
                self.exchange.ended(Outcome::Delivered, None);
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                self.exchange.sent(frame.data_ref().map_or(0, Bytes::len));
                self.note_end();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn broken(&mut self, error: RelayError) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        self.exchange.ended(Outcome::Truncated, Some(&error));
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match &mut self.source {
            Source::Own(body) => {
                let body = body.take();
                self.exchange.sent(body.as_ref().map_or(0, Bytes::len));
                Poll::Ready(body.map(|body| Ok(Frame::data(body))))
            }
            Source::Upstream { .. } => self.poll_upstream(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_none(),
            Source::Upstream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Source::Upstream { body, .. } => body.size_hint(),
        }
    }
}
