//! Sockets that listen, and the loop that accepts.
//!
//! Binding comes first and fails loudly: a port that somebody else holds would be somebody else's proxy (docs/rules.md 1.8).
//! The loop outlives every error of `accept`, and its [`Terms`] may change while it runs. Imports `server::{connection,
//! drain, secured}`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use super::Arrival;
use super::connection::{self, Timers};
use super::drain::Drain;
use super::orphan::FarEnd;
use super::secured;
use super::workers::Workers;

/// After a failed `accept` (out of descriptors, mostly); it doubles with each, up to [`Terms::accept_pause`].
pub const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// What the kernel takes of answers before a client does, beyond what is under way to it. Left to itself it takes 4 MiB for
/// each that reads slowly, all of it fetched and decrypted for nobody, and counted as ours by the cgroup.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT: u32 = 256 * 1024;
/// Of lines of the log that say the same.
const WORD_EVERY: Duration = Duration::from_secs(1);
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
    /// (SECURITY.md).
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

/// What holds for the connections of a listener that come from now on.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The limits on a client's silence.
    pub timers: Timers,
    /// How many there may be.
    pub places: Arc<Semaphore>,
    /// The longest pause after one could not be accepted.
    pub accept_pause: Duration,
    /// What TCP listeners speak TLS with; without, they speak in plain text.
    pub tls: Option<Arc<ServerConfig>>,
    /// When they must end.
    pub drain: Drain,
    /// Who serves them.
    pub workers: Workers,
}

impl Listener {
    /// Listens on `address`. Of what `reach` says only loopback addresses are concerned: others are for other machines.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(address: SocketAddr, reach: Reach) -> Result<Self, BindError> {
        // SO_REUSEADDR, which tokio sets, takes a port over from closed connections only, not from one who listens; and
        // SO_REUSEPORT, which would share it, is never set (docs/rules.md 1.8).
        let socket = TcpListener::bind(address).await;
        Self::limited(socket, address, reach)
    }

    /// Listens on a socket that whoever started us has bound already.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn adopt(socket: std::net::TcpListener, address: SocketAddr, reach: Reach) -> Result<Self, BindError> {
        let socket = socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket));
        Self::limited(socket, address, reach)
    }

    fn limited(socket: io::Result<TcpListener>, address: SocketAddr, reach: Reach) -> Result<Self, BindError> {
        let failed = |source| BindError { address: address.to_string(), source };
        let socket = socket.map_err(failed)?;
        if reach == Reach::Machine && address.ip().is_loopback() {
            // Accepted sockets inherit it, and the first answer of the handshake has it too.
            let limited = match address {
                SocketAddr::V4(_) => socket.set_ttl(1),
                SocketAddr::V6(_) => SockRef::from(&socket).set_unicast_hops_v6(1),
            };
            limited.map_err(failed)?;
        }
        // Accepted sockets inherit this, too. It works without.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Err(error) = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT) {
            tracing::debug!(%address, %error, "TCP_NOTSENT_LOWAT");
        }
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// The address it has, with the port that the system chose for 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the drain closes, and serves each connection on a task of its own, by the terms of the time.
    pub async fn serve<S, F, B>(self, terms: watch::Receiver<Terms>, service: S)
    where
        S: Fn(Arrival) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        serve(self, terms, service).await;
    }
}

#[cfg(unix)]
impl super::unix::UnixSocket {
    /// Accepts until the drain closes, and serves each connection on a task of its own, by the terms of the time.
    pub async fn serve<S, F, B>(self, terms: watch::Receiver<Terms>, service: S)
    where
        S: Fn(Arrival) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        serve(self, terms, service).await;
    }
}

/// Where connections come from.
pub(super) trait Accept: Send {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// Whether `tls` of the terms is for it.
    const MAY_SPEAK_TLS: bool;

    /// For the log.
    fn name(&self) -> String;

    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Has the runtime that this is called in watch a connection, and no longer the one that accepted it.
    fn hand_over(stream: Self::Stream) -> io::Result<Self::Stream>;

    /// What tells whether the client is gone.
    fn far_end(stream: &Self::Stream) -> Option<FarEnd>;

    /// Writes what fits into the buffer of a new connection.
    fn turn_away(stream: &Self::Stream, words: &[u8]) -> io::Result<usize>;
}

impl Accept for Listener {
    type Stream = TcpStream;
    const MAY_SPEAK_TLS: bool = true;

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

    fn hand_over(stream: TcpStream) -> io::Result<TcpStream> {
        TcpStream::from_std(stream.into_std()?)
    }

    fn far_end(stream: &TcpStream) -> Option<FarEnd> {
        FarEnd::of(stream)
    }

    fn turn_away(stream: &TcpStream, words: &[u8]) -> io::Result<usize> {
        stream.try_write(words)
    }
}

/// Accepts from `from`, and has each connection served with `service`.
async fn serve<A, S, F, B>(mut from: A, terms: watch::Receiver<Terms>, service: S)
where
    A: Accept,
    S: Fn(Arrival) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    // The drain is the listener's own, whatever else changes.
    let drain = terms.borrow().drain.clone();
    // A stop waits for this loop: else it could end between an accept and the first moment of its connection.
    let _counted = drain.count();
    let mut pause = SHORTEST_PAUSE;
    let (mut failing, mut full) = (Complaint::default(), Complaint::default());
    loop {
        let accepted = tokio::select! {
            accepted = from.accept() => accepted,
            () = drain.closed() => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            // One connection's own trouble, and not ours (accept(2)).
            Err(error) if is_the_clients(&error) => {
                tracing::debug!(address = from.name(), %error, "a connection ended before it was accepted");
                continue;
            }
            Err(error) => {
                if let Some(times) = failing.word() {
                    tracing::warn!(address = from.name(), %error, times, "accepting a connection");
                }
                // Connections wait in the system's queue meanwhile. Descriptors come back when others end, so asking
                // again at once would only keep a core busy.
                tokio::select! {
                    () = sleep(pause) => {}
                    () = drain.closed() => return,
                }
                pause = (pause * 2).min(terms.borrow().accept_pause);
                continue;
            }
        };
        pause = SHORTEST_PAUSE;
        let Terms { timers, places, tls, drain, workers, accept_pause: _ } = terms.borrow().clone();
        let tls = tls.filter(|_| A::MAY_SPEAK_TLS);
        let Ok(place) = places.try_acquire_owned() else {
            // Best effort: the socket's buffer of a new connection takes these few bytes at once. Before a handshake they
            // would be noise.
            if tls.is_none()
                && let Err(error) = A::turn_away(&stream, FULL)
            {
                tracing::debug!(%error, "turning a connection away");
            }
            if let Some(turned_away) = full.word() {
                tracing::warn!(address = from.name(), turned_away, "max_connections is reached");
            }
            continue;
        };
        let worker = workers.choose();
        let stream = match worker.enter(|| A::hand_over(stream)) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(address = from.name(), %error, "giving a connection to its thread");
                continue;
            }
        };
        let (tracker, service) = (drain.clone(), service.clone());
        match tls {
            None => {
                let far_end = A::far_end(&stream);
                let served = connection::serve(stream, far_end, timers, drain, service);
                worker.spawn(tracker.connections(), served, place);
            }
            Some(config) => {
                let served = secured::serve(TlsAcceptor::from(config), stream, timers, drain, service);
                worker.spawn(tracker.connections(), served, place);
            }
        }
    }
}

/// A line that is said once a second at most, with how often there was reason to.
#[derive(Debug, Default)]
struct Complaint {
    times: u64,
    said: Option<Instant>,
}

impl Complaint {
    fn word(&mut self) -> Option<u64> {
        self.times += 1;
        let is_due = self.said.is_none_or(|said| said.elapsed() >= WORD_EVERY);
        is_due.then(|| {
            self.said = Some(Instant::now());
            self.times
        })
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Whether `address` could not be bound because this machine does not speak IPv6.
pub fn is_missing_ipv6(error: &io::Error) -> bool {
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

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[tokio::test]
    async fn the_kernel_takes_little_ahead_of_a_client() {
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap(), Reach::Machine).await.unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(listener.address()), listener.accept());
        assert_eq!(SockRef::from(&accepted.unwrap()).tcp_notsent_lowat().unwrap(), UNSENT);
    }

    #[tokio::test]
    async fn a_port_that_is_held_cannot_be_taken() {
        let held = Listener::bind("127.0.0.1:0".parse().unwrap(), Reach::Machine).await.unwrap();
        let port = held.address().port();
        for address in [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0], port))] {
            let second = Listener::bind(address, Reach::Network).await;
            assert_eq!(second.unwrap_err().source.kind(), io::ErrorKind::AddrInUse, "{address}");
        }
    }
}
