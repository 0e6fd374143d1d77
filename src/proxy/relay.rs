//! The answer on its way back: the upstream's as it comes, or one of our own.
//!
//! A body that breaks off upstream breaks off here too; it never looks complete. Own answers say what and never where:
//! no host, address, ARN or library text (docs/rules.md 2.6). Imports `diagnosis`, `message`, `route`.

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

use super::conceal::Passage;
use super::localize;
use super::outcome::{Code, Outcome, ProxyError};
use super::pool::{ExchangeError, UpstreamBody};
use super::record::Exchange;
use crate::diagnosis::Evidence;
use crate::message::body::IdleTimer;
use crate::message::fields::{self, ERROR_CODE, HINT, PROXY_STATUS, REQUEST_ID, Trailers};
use crate::route::Route;

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const X_CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

/// An answer's body, and all that must live until its end.
#[derive(Debug)]
pub struct Relayed(Source);

/// The places a request takes among those in flight.
#[derive(Debug)]
pub struct Permits(#[expect(dead_code, reason = "held for their drop")] pub(super) [OwnedSemaphorePermit; 2]);

#[derive(Debug)]
enum Source {
    Upstream(Passing),
    /// Little enough that the places among the requests in flight are given back before it is taken.
    Whole {
        bytes: Option<Bytes>,
        exchange: Box<Exchange>,
    },
    /// The head of a tunnel: what lives on is in that.
    Nothing,
}

/// A body that passes as it comes.
#[derive(Debug)]
struct Passing {
    body: UpstreamBody,
    idle: IdleTimer,
    trailers: Trailers,
    /// Known, and not told yet.
    broken: Option<RelayError>,
    exchange: Box<Exchange>,
    #[expect(dead_code, reason = "held for its drop: the request counts as in flight until its answer has ended")]
    permits: Permits,
}

/// Why an answer's body broke off.
#[derive(Debug)]
pub enum RelayError {
    /// The upstream's connection broke, or its framing did.
    Upstream(ExchangeError),
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
    response: Response<Passage>,
    mut exchange: Box<Exchange>,
    permits: Permits,
    trailers: Trailers,
    route: &Route,
) -> Response<Relayed> {
    let (mut parts, body) = response.into_parts();
    exchange.answering(parts.status);
    fields::strip_response(&mut parts.headers, trailers);
    localize::fields(&mut parts.headers, route);
    parts.headers.entry(REQUEST_ID).or_insert_with(|| exchange.request_id().clone());
    if let Some(diagnosis) = exchange.diagnosis() {
        hint(&mut parts.headers, &diagnosis.hint(Evidence::Shown));
    }
    parts.version = Version::HTTP_11;
    // Nothing may ever poll a body that is already over, or that cannot be (RFC 9110 6.4.1).
    let bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless || exchange.method() == Some(&Method::HEAD) {
        exchange.ended(Outcome::Delivered, None);
    }
    let body = match body {
        Passage::Streaming(body) => body,
        Passage::Held(bytes) => {
            exchange.ended(Outcome::Delivered, None);
            return Response::from_parts(parts, Relayed(Source::Whole { bytes: Some(bytes), exchange }));
        }
    };
    let idle = IdleTimer::new(route.body_idle_timeout);
    let mut passing = Passing { body, idle, trailers, broken: None, exchange, permits };
    passing.note_end();
    Response::from_parts(parts, Relayed(Source::Upstream(passing)))
}

fn hint(headers: &mut HeaderMap, words: &str) {
    // Printable ASCII, all of it.
    if let Ok(value) = HeaderValue::try_from(words) {
        headers.insert(HINT, value);
    }
}

/// An answer whose connection goes on as a tunnel: an upstream's 101, or ours to CONNECT.
pub(super) fn switching(response: Response<()>) -> Response<Relayed> {
    response.map(|()| Relayed(Source::Nothing))
}

/// Answers a question that no upstream is asked.
pub fn answer(fields: HeaderMap, mut exchange: Box<Exchange>) -> Response<Relayed> {
    exchange.answering(StatusCode::NO_CONTENT);
    exchange.ended(Outcome::Answered, None);
    let request_id = exchange.request_id().clone();
    let mut response = Response::new(Relayed(Source::Whole { bytes: None, exchange }));
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = fields;
    response.headers_mut().insert(REQUEST_ID, request_id);
    response
}

/// Answers in the upstream's stead.
pub fn refuse(error: &ProxyError, mut exchange: Box<Exchange>) -> Response<Relayed> {
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
    let said = exchange.diagnosis().map(|diagnosis| diagnosis.hint(Evidence::Withheld));
    if let (Some(said), Some(members)) = (&said, problem.as_object_mut()) {
        members.insert("hint".to_owned(), said.as_str().into());
    }
    let body = Bytes::from(problem.to_string());
    let mut response = Response::new(Relayed(Source::Whole { bytes: Some(body), exchange }));
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
    if let Some(said) = said {
        hint(headers, &said);
    }
    if let Some(after) = error.retry_after() {
        // Whole seconds, and one more: what is cut off would ask for a retry too soon.
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs() + 1));
    }
    if code == Code::CallerToken {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"countersign\""));
    }
    if code == Code::ProxyToken {
        headers.insert(header::PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"countersign\""));
    }
    if let ProxyError::MethodNotAllowed { allowed, .. } = error {
        let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
        if let Ok(value) = HeaderValue::try_from(allowed.join(", ")) {
            headers.insert(header::ALLOW, value);
        }
    }
    response
}

impl Passing {
    fn note_end(&mut self) {
        // A body of known length may be dropped once all its bytes are there, without being asked for its end.
        if self.body.is_end_stream() || self.body.size_hint().exact() == Some(0) {
            self.exchange.ended(Outcome::Delivered, None);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                std::task::ready!(self.idle.poll_elapsed(cx));
                let limit = self.idle.limit();
                return self.breaks(RelayError::Idle(limit), cx);
            }
        };
        self.idle.restart();
        match frame {
            None => {
                self.exchange.ended(Outcome::Delivered, None);
                Poll::Ready(None)
            }
            Some(Err(error)) => self.breaks(RelayError::Upstream(error), cx),
            Some(Ok(frame)) if frame.is_trailers() && self.trailers == Trailers::Unwanted => {
                self.exchange.ended(Outcome::Delivered, None);
                Poll::Ready(None)
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    fields::strip_trailers(trailers);
                }
                self.exchange.sent(frame.data_ref().map_or(0, Bytes::len));
                self.note_end();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    /// Breaks off, one turn later: hyper throws away what it has not written when it hears of an error, and a client
    /// that sees a head and a part knows more than one that sees nothing.
    fn breaks(&mut self, error: RelayError, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        self.exchange.ended(Outcome::Truncated, Some(&error));
        self.broken = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match &mut self.0 {
            Source::Whole { bytes, exchange } => {
                let bytes = bytes.take();
                exchange.sent(bytes.as_ref().map_or(0, Bytes::len));
                Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
            Source::Upstream(passing) => passing.poll_frame(cx),
            Source::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Whole { bytes, .. } => bytes.is_none(),
            Source::Upstream(passing) => passing.body.is_end_stream(),
            Source::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Whole { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Upstream(passing) => passing.body.size_hint(),
            Source::Nothing => SizeHint::with_exact(0),
        }
    }
}
