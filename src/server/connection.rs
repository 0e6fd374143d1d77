//! One client connection: HTTP/1.0 and 1.1 by hyper, behind the gate.
//!
//! A request that the gate has refused reaches the service as its refusal, in the request's place: whoever serves has to
//! look. Imports `server::{drain, gate, upgrade}`.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Arrival;
use super::drain::{Drain, InFlight};
use super::gate::head::Limits;
use super::gate::{Gate, Word};
use super::orphan::FarEnd;
use super::upgrade::{Counts, Tunnel};
use crate::message::fields::HYPERS_MOST;

/// [`Timers::buffer`], unless the config says otherwise (docs/rules.md 3.2).
pub const COPY_BUFFER: usize = 64 * 1024;

/// What a client is held to: two limits on its silence, those on its heads, and how far it may be ahead or behind.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// Without a request, or without taking anything of an answer.
    pub idle: Duration,
    /// What a head may be.
    pub heads: Limits,
    /// What is read of a body before the upstream takes it, and kept of an answer that the client does not take; no less
    /// than a head may be.
    pub buffer: usize,
}

/// Serves one connection until its end, and the [`Tunnel`] that follows an answer of 101 or to CONNECT; ends it early when
/// `drain` says so. `far_end` tells of clients that are gone without a word.
pub(crate) async fn serve<IO, S, F, B>(io: IO, far_end: Option<FarEnd>, timers: Timers, drain: Drain, service: S)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Fn(Arrival) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let word = Arc::<Word>::default();
    let io = Gate::new(io, far_end, timers, Arc::clone(&word));
    let (word, follows) = (&word, &Mutex::new(None));
    let service = service_fn(|mut request: Request<Incoming>| {
        let mut in_flight = Some(drain.enter());
        if request.headers().contains_key(header::UPGRADE) {
            request.extensions_mut().insert(drain.ending());
        }
        let answer = service(match word.refused() {
            None => Ok(request),
            Some(refused) => Err(refused.clone()),
        });
        let is_leaving = || drain.is_leaving();
        async move {
            let mut response = answer.await;
            if let Some(sequel) = Tunnel::take_from(&mut response) {
                word.tunnel();
                // A tunnel is a request in flight until its end.
                let mut held = if sequel.counts == Counts::Request { in_flight.take() } else { None };
                if let Some(in_flight) = &mut held {
                    in_flight.become_tunnel();
                }
                *follows.lock().unwrap_or_else(PoisonError::into_inner) = Some((sequel, held));
            } else if is_leaving() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response.map(|body| Answer { body, _in_flight: in_flight }))
        }
    });
    let mut builder = http1::Builder::new();
    if timers.heads.fields != HYPERS_MOST {
        builder.max_headers(timers.heads.fields);
    }
    let connection = builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        // A client that has said all and closed its side still wants its answer (docs/rules.md 1.5).
        .half_close(true)
        .max_header_size(timers.heads.bytes)
        .max_buf_size(timers.buffer)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        outcome = connection.as_mut() => Some(outcome),
        () = drain.closed() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = connection => Some(outcome),
                () = drain.cut() => None,
            }
        }
    };
    let follows = follows.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (ended, follows) {
        (Some(Ok(())), Some((sequel, _in_flight))) => tokio::select! {
            () = sequel.begin(timers, drain.clone()) => {}
            () = drain.cut() => {}
        },
        (Some(Err(error)), _) => tracing::debug!(%error, "a client connection ended"),
        (Some(Ok(())) | None, _) => {}
    }
}

pin_project_lite::pin_project! {
    /// An answer's body; its request is in flight until it is dropped.
    struct Answer<B> {
        #[pin]
        body: B,
        _in_flight: Option<InFlight>,
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
