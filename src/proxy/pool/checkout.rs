//! A connection in the hand, for one request. Imports `message`, `telemetry`.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode};
use tokio_util::either::Either;

use super::connection::{H1, Switched, UpstreamBody};
use super::shared::Place;
use super::{Connections, Sent, Undelivered, UpstreamError};
use crate::message::body::OutboundBody;
use crate::telemetry::history::Connection;

/// What came of a request that may be answered by another protocol.
#[derive(Debug)]
pub enum Answered {
    /// An answer like any other.
    Response(Response<UpstreamBody>),
    /// 101: HTTP has ended on this connection.
    Switched(Response<Switched>),
}

impl Answered {
    /// The status of the head.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Response(response) => response.status(),
            Self::Switched(response) => response.status(),
        }
    }

    /// The fields of the head.
    pub fn headers(&self) -> &HeaderMap {
        match self {
            Self::Response(response) => response.headers(),
            Self::Switched(response) => response.headers(),
        }
    }
}

/// How a request is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Origin-form target and a Host field.
    Http1,
    /// Absolute-form target and a Host field, for a proxy (RFC 9112 3.2.2).
    Absolute,
    /// `:scheme`, `:authority`, `:path`.
    Http2,
}

/// A connection that is ready for a request.
#[derive(Debug)]
pub(super) enum Ready {
    Http1(Box<H1>),
    Http2(Place),
}

/// A connection, and the form in which it takes requests.
#[derive(Debug)]
pub struct Checkout {
    ready: Ready,
    home: Arc<Connections>,
}

impl Checkout {
    pub(super) fn new(ready: Ready, home: Arc<Connections>) -> Self {
        Self { ready, home }
    }

    /// How the request must be written.
    pub fn form(&self) -> Form {
        match self.ready {
            Ready::Http1(_) => self.home.dialer.form,
            Ready::Http2(_) => Form::Http2,
        }
    }

    /// Whether it carried a request before.
    pub fn is_reused(&self) -> bool {
        self.connection() == Connection::Kept
    }

    /// Whether it was kept, or made for this request.
    pub fn connection(&self) -> Connection {
        match &self.ready {
            Ready::Http1(connection) if connection.is_reused() => Connection::Kept,
            Ready::Http2(place) if place.is_reused() => Connection::Kept,
            Ready::Http1(_) | Ready::Http2(_) => Connection::New,
        }
    }

    /// Sends `request`, which must be in this checkout's form, and waits for the response head.
    ///
    /// # Errors
    /// [`Undelivered`].
    ///
    /// # Cancellation
    /// Dropping the future ends the exchange: the upstream sees the connection (or stream) close.
    pub fn send(
        self,
        request: Request<OutboundBody>,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, Undelivered>> + Send {
        match self.ready {
            Ready::Http1(connection) => Either::Left(connection.exchange(request, self.home)),
            // Large, beside the other.
            Ready::Http2(place) => Either::Right(Box::pin(place.exchange(request))),
        }
    }

    /// The same for a request that asks for another protocol: only an origin that is never spoken to over HTTP/2 has
    /// connections for it.
    ///
    /// # Errors
    /// [`Undelivered`].
    ///
    /// # Cancellation
    /// As [`Checkout::send`].
    pub async fn send_upgrade(self, request: Request<OutboundBody>) -> Result<Answered, Undelivered> {
        match self.ready {
            Ready::Http1(connection) => connection.exchange_upgrade(request, self.home).await,
            Ready::Http2(..) => {
                Err(Undelivered { error: UpstreamError::Switched, sent: Sent::Nothing(Box::new(request)) })
            }
        }
    }
}
