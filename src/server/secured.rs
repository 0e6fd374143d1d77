//! A connection that begins with a TLS handshake, and speaks what was agreed on in it.
//!
//! The handshake runs on the connection's own task and within the time for a head: who stalls it delays nobody. Imports
//! `server::{connection, drain, http2}`.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Arrival;
use super::connection::{self, Timers};
use super::drain::Drain;
use super::http2;

/// Serves one connection until its end; ends it early when `drain` says so.
pub(super) async fn serve<IO, S, F, B>(acceptor: TlsAcceptor, io: IO, timers: Timers, drain: Drain, service: S)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Fn(Arrival) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let stream = tokio::select! {
        stream = handshake(&acceptor, io, timers.head) => stream,
        () = drain.closed() => return,
    };
    let Some(stream) = stream else { return };
    speak(stream, timers, drain, service).await;
}

/// Serves a connection behind its handshake, in what was agreed on there.
pub(crate) async fn speak<IO, S, F, B>(stream: TlsStream<IO>, timers: Timers, drain: Drain, service: S)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Fn(Arrival) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    // Each on the heap: a task that could hold either is several times as large, for as long as the connection lives.
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        Box::pin(http2::serve(stream, timers, drain, service)).await;
    } else {
        Box::pin(connection::serve(stream, None, timers, drain, service)).await;
    }
}

async fn handshake<IO>(acceptor: &TlsAcceptor, io: IO, limit: Duration) -> Option<TlsStream<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(limit, acceptor.accept(io)).await {
        Ok(Ok(stream)) => return Some(stream),
        // Port scans and clients that do not trust the certificate: nothing that somebody must act on here.
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(?limit, "a TLS handshake took longer than header_timeout"),
    }
    None
}
