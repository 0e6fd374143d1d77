//! One client connection: HTTP/1.0 and 1.1 by hyper, behind the gate.
//!
//! A request that the gate has refused reaches the service as its refusal, in the request's place: whoever serves has to
//! look. Imports `server::{drain, gate}`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Arrival;
use super::drain::{Drain, InFlight};
use super::gate::head::{LARGEST_HEAD, MOST_FIELDS};
use super::gate::{Gate, Refusal};

/// What is read of a body before the upstream takes it.
pub(super) const READ_BUFFER: usize = 64 * 1024;

/// The two limits on a client's silence.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// Without a request, or without taking anything of an answer.
    pub idle: Duration,
}

/// Serves one connection until its end; ends it early when `drain` says so.
pub async fn serve<IO, S, F, B>(io: IO, timers: Timers, drain: Drain, service: S)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Fn(Arrival) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let refusal = Refusal::default();
    let io = Gate::new(io, timers, Arc::clone(&refusal));
    let service = service_fn(|request| {
        let in_flight = drain.enter();
        let answer = service(match refusal.get() {
            None => Ok(request),
            Some(refused) => Err(refused.clone()),
        });
        async {
            let mut response = answer.await;
            if drain.is_leaving() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response.map(|body| Answer { body, _in_flight: in_flight }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        // A client that has said all and closed its side still wants its answer (security.md F6).
        .half_close(true)
        .max_headers(MOST_FIELDS)
        .max_header_size(LARGEST_HEAD)
        .max_buf_size(READ_BUFFER)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => return log_end(outcome),
        () = drain.closed() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        outcome = connection => log_end(outcome),
        () = drain.cut() => {}
    }
}

fn log_end(outcome: Result<(), hyper::Error>) {
    if let Err(error) = outcome {
        tracing::debug!(error = %error, "a client connection ended");
    }
}

pin_project_lite::pin_project! {
    /// An answer's body; its request is in flight until it is dropped.
    struct Answer<B> {
        #[pin]
        body: B,
        _in_flight: InFlight,
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
