//! Sockets that listen, and the loop that accepts.
//!
//! Binding comes first and fails loudly: a port that somebody else holds would be somebody else's proxy (security.md F12).
//! The loop outlives every error of `accept`. Imports `server::{connection, drain, secured}`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::Arrival;
use super::connection::{self, Timers};
use super::drain::Drain;
use super::secured;

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
    /// The address, or the path of a Unix socket.
    pub address: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// How far what is sent from a listener may travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Not beyond the first router: a loopback port that something forwards to other machines stays without an answer
    /// (security.md A9).
    Machine,
    /// As far as it will.
    Network,
}

/// A TCP socket that listens.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// What holds for all connections of a listener.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The limits on a client's silence.
    pub timers: Timers,
    /// How many there may be.
    pub places: Arc<Semaphore>,
    /// When they must end.
    pub drain: Drain,
}

impl Listener {
    /// Listens on `address`. Of what `reach` says only loopback addresses are concerned: others are for other machines.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(address: SocketAddr, reach: Reach) -> Result<Self, BindError> {
        let failed = |source| BindError { address: address.to_string(), source };
        // SO_REUSEADDR, which tokio sets, takes a port over from closed connections only, not from one who listens; and
        // SO_REUSEPORT, which would share it, is never set (security.md F12).
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        if reach == Reach::Machine && address.ip().is_loopback() {
            // Accepted sockets inherit it, and the first answer of the handshake has it too.
            let limited = match address {
                SocketAddr::V4(_) => socket.set_ttl(1),
                SocketAddr::V6(_) => SockRef::from(&socket).set_unicast_hops_v6(1),
            };
            limited.map_err(failed)?;
        }
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// Listens on all of `addresses`. An IPv6 loopback that this machine does not have is left out with a warning, as
    /// long as another address remains.
    ///
    /// # Errors
    /// [`BindError`] of the first address that is taken or not this machine's.
    pub async fn bind_all(addresses: &[SocketAddr], reach: Reach) -> Result<Vec<Self>, BindError> {
        let mut listeners = Vec::new();
        for address in addresses {
            match Self::bind(*address, reach).await {
                Ok(listener) => listeners.push(listener),
                Err(error) if addresses.len() > 1 && address.is_ipv6() && is_missing_ipv6(&error.source) => {
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

    /// Accepts until the drain closes, and serves each connection on a task of its own: over TLS, if there is a `tls`.
    pub async fn serve<S, F, B>(self, terms: Terms, tls: Option<Arc<ServerConfig>>, service: S)
    where
        S: Fn(Arrival) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        match tls {
            None => serve(self, &terms, Words::Http, service, connection::serve).await,
            Some(config) => {
                let acceptor = TlsAcceptor::from(config);
                let secured = move |stream, timers, drain, service| {
                    secured::serve(acceptor.clone(), stream, timers, drain, service)
                };
                serve(self, &terms, Words::None, service, secured).await;
            }
        }
    }
}

#[cfg(unix)]
impl super::unix::UnixSocket {
    /// Accepts until the drain closes, and serves each connection on a task of its own.
    pub async fn serve<S, F, B>(self, terms: Terms, service: S)
    where
        S: Fn(Arrival) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        serve(self, &terms, Words::Http, service, connection::serve).await;
    }
}

/// Where connections come from.
pub(super) trait Accept: Send {
    type Stream: Send + 'static;

    /// For the log.
    fn name(&self) -> String;

    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Writes what fits into the buffer of a new connection.
    fn turn_away(stream: &Self::Stream, words: &[u8]) -> io::Result<usize>;
}

impl Accept for Listener {
    type Stream = TcpStream;

    fn name(&self) -> String {
        self.address.to_string()
    }

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _peer) = self.socket.accept().await?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        Ok(stream)
    }

    fn turn_away(stream: &TcpStream, words: &[u8]) -> io::Result<usize> {
        stream.try_write(words)
    }
}

/// What a connection beyond the limit is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Http,
    /// It would be noise before a handshake.
    None,
}

/// Accepts from `from`, and has `connection` serve what comes with `service`.
async fn serve<A, S, C, F>(mut from: A, terms: &Terms, words: Words, service: S, connection: C)
where
    A: Accept,
    S: Clone,
    C: Fn(A::Stream, Timers, Drain, S) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let Terms { timers, places, drain } = terms;
    let mut pause = SHORTEST_PAUSE;
    let (mut turned_away, mut last_word) = (0_u64, None::<Instant>);
    loop {
        let accepted = tokio::select! {
            accepted = from.accept() => accepted,
            () = drain.closed() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(address = from.name(), %error, ?pause, "accepting a connection");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        pause = SHORTEST_PAUSE;
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            // Best effort: the socket's buffer of a new connection takes these few bytes at once.
            if words == Words::Http
                && let Err(error) = A::turn_away(&stream, FULL)
            {
                tracing::debug!(%error, "turning a connection away");
            }
            turned_away += 1;
            if last_word.is_none_or(|said| said.elapsed() > LONGEST_PAUSE) {
                tracing::warn!(address = from.name(), turned_away, "max_connections is reached");
                last_word = Some(Instant::now());
            }
            continue;
        };
        let served = connection(stream, *timers, drain.clone(), service.clone());
        drain.connections().spawn(async move {
            served.await;
            drop(place);
        });
    }
}

fn is_missing_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        // EAFNOSUPPORT, which std has no kind for.
        || error.raw_os_error() == Some(97)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_from_loopback_does_not_get_past_a_router() {
        for (loopback, any) in [("127.0.0.1:0", "0.0.0.0:0"), ("[::1]:0", "[::]:0")] {
            for (address, reach, limited) in
                [(loopback, Reach::Machine, true), (loopback, Reach::Network, false), (any, Reach::Machine, false)]
            {
                let mut listener = match Listener::bind(address.parse().unwrap(), reach).await {
                    Err(error) if is_missing_ipv6(&error.source) => continue,
                    bound => bound.unwrap(),
                };
                let port = listener.address().port();
                let dialled = SocketAddr::new(loopback.parse::<SocketAddr>().unwrap().ip(), port);
                let (_client, accepted) = tokio::join!(TcpStream::connect(dialled), listener.accept());
                let accepted = accepted.unwrap();
                let hops = match dialled {
                    SocketAddr::V4(_) => accepted.ttl().unwrap(),
                    SocketAddr::V6(_) => SockRef::from(&accepted).unicast_hops_v6().unwrap(),
                };
                assert_eq!(hops == 1, limited, "{address} {reach:?}: {hops}");
            }
        }
    }

    #[tokio::test]
    async fn a_port_that_is_held_cannot_be_taken() {
        let held = Listener::bind("127.0.0.1:0".parse().unwrap(), Reach::Machine).await.unwrap();
        let port = held.address().port();
        for address in [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0], port))] {
            let second = Listener::bind(address, Reach::Network).await;
            assert_eq!(second.unwrap_err().source.kind(), io::ErrorKind::AddrInUse, "{address}");
        }
        let taken = Listener::bind_all(&["127.0.0.1:0".parse().unwrap(), held.address()], Reach::Machine).await;
        assert!(taken.unwrap_err().address.ends_with(&port.to_string()));
    }
}
