//! Sockets that listen, and the loop that accepts.
//!
//! Binding comes first and fails loudly: a port that somebody else holds would be somebody else's proxy (security.md F12).
//! The loop outlives every error of `accept`. Imports `server::{connection, drain}`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Arrival;
use super::connection::{self, Timers};
use super::drain::Drain;

/// Pauses after a failed `accept` (out of descriptors, mostly): from this, doubling, to that.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// What a connection beyond the limit is told, without a parser's help.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nx-countersign-error: overloaded\r\nretry-after: 1\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listening on {address}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let failed = |source| BindError { address, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// Listens on all of `addresses`. An IPv6 loopback that this machine does not have is left out with a warning, as
    /// long as another address remains.
    ///
    /// # Errors
    /// [`BindError`] of the first address that is taken or not this machine's.
    pub async fn bind_all(addresses: &[SocketAddr]) -> Result<Vec<Self>, BindError> {
        let mut listeners = Vec::new();
        for address in addresses {
            match Self::bind(*address).await {
                Ok(listener) => listeners.push(listener),
                Err(error) if addresses.len() > 1 && is_missing_ipv6(&error) => {
                    tracing::warn!(%address, error = %error.source, "no IPv6 loopback here; not listening on it");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(listeners)
    }

    /// The address it has, with the port that the system chose for 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `drain` closes, and serves each connection on a task of its own.
    pub async fn serve<S, F, B>(self, timers: Timers, places: Arc<Semaphore>, drain: Drain, service: S)
    where
        S: Fn(Arrival) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let mut pause = SHORTEST_PAUSE;
        let (mut turned_away, mut last_word) = (0_u64, None::<Instant>);
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = drain.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, ?pause, "accepting a connection");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
            };
            pause = SHORTEST_PAUSE;
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                turn_away(&stream);
                turned_away += 1;
                if last_word.is_none_or(|said| said.elapsed() > LONGEST_PAUSE) {
                    tracing::warn!(address = %self.address, turned_away, "max_connections is reached");
                    last_word = Some(Instant::now());
                }
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
            let (service, drained) = (service.clone(), drain.clone());
            drain.connections().spawn(async move {
                connection::serve(stream, timers, drained, service).await;
                drop(place);
            });
        }
    }
}

fn is_missing_ipv6(error: &BindError) -> bool {
    let missing = matches!(error.source.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        // EAFNOSUPPORT, which std has no kind for.
        || error.source.raw_os_error() == Some(97);
    error.address.is_ipv6() && missing
}

/// Best effort: the socket's buffer of a new connection takes these few bytes at once.
fn turn_away(stream: &TcpStream) {
    if let Err(error) = stream.try_write(FULL) {
        tracing::debug!(%error, "turning a connection away");
    }
}
