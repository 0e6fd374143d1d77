//! Making a connection: name lookup, TCP, TLS, HTTP handshake.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::census::{Open, Tally};
use super::interim::Counted;
use super::shared::Most;
use super::tunnel::{self, ProxyFault};
use super::{Form, Names, UpstreamError, race};
use crate::egress::ProxyUrl;
use crate::egress::bounds::{self, NamedBy};
use crate::message::body::OutboundBody;
use crate::route::Origin;
use crate::route::upstream::HostPort;
use crate::tasks::Tasks;

/// What one stream, and all of one connection, may have under way towards us: 5 MB/s at 200 ms of round trip.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

pub(super) enum Established {
    Http1(Stream),
    Http2(http2::SendRequest<OutboundBody>),
}

/// Makes connections to one origin.
pub(super) struct Dialer {
    pub(super) origin: Origin,
    /// How its HTTP/1 requests are written.
    pub(super) form: Form,
    named_by: NamedBy,
    tls: Option<TlsConnector>,
    tasks: Tasks,
    names: Names,
    tally: Tally,
}

impl Dialer {
    pub(super) fn new(origin: Origin, tls: Option<Arc<rustls::ClientConfig>>, tasks: Tasks, names: Names) -> Self {
        let (form, named_by) = (Form::Http1, NamedBy::Config);
        Self { origin, form, named_by, tls: tls.map(TlsConnector::from), tasks, names, tally: Tally::default() }
    }

    /// The same, with its connections counted in `tally`.
    pub(super) fn counted(self, tally: Tally) -> Self {
        Self { tally, ..self }
    }

    /// One in plain HTTP for a host that a caller has named, or, for requests in [`Form::Absolute`], to the proxy on the
    /// way there.
    pub(super) fn elsewhere(origin: Origin, form: Form, tasks: Tasks, names: Names) -> Self {
        let named_by = if form == Form::Absolute { NamedBy::Config } else { NamedBy::Caller };
        Self { origin, form, named_by, tls: None, tasks, names, tally: Tally::default() }
    }

    pub(super) fn may_speak_http2(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.config().alpn_protocols.len() > 1)
    }

    /// A connection; over HTTP/2, it begins with `most` streams and tells how many there may be.
    pub(super) async fn establish(&self, most: &Most) -> Result<Established, UpstreamError> {
        let Origin { dial, via, dns_timeout, connect_timeout, .. } = &self.origin;
        let (names, named_by) = (&self.names, self.named_by);
        let reach = Reach { names, named_by, dns_timeout: *dns_timeout, connect_timeout: *connect_timeout };
        let tcp = reach.host(dial, via.as_ref()).await?;
        let Some(tls) = &self.tls else { return Ok(self.http1(Io::Plain(tcp))) };
        let stream = self.handshake(tls, tcp).await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(stream, most.clone()).await
        } else {
            Ok(self.http1(Io::Tls(Box::new(stream))))
        }
    }

    pub(super) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(name, work);
    }

    async fn handshake(&self, tls: &TlsConnector, tcp: TcpStream) -> Result<TlsStream<TcpStream>, UpstreamError> {
        let Origin { dial, server_name, tls_timeout: limit, .. } = &self.origin;
        let failed = |source| UpstreamError::Tls { dial: dial.clone(), server_name: server_name.clone(), source };
        let name = ServerName::try_from(server_name.clone())
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        timeout(*limit, tls.connect(name, tcp))
            .await
            .map_err(|_elapsed| UpstreamError::TlsTimeout { dial: dial.clone(), limit: *limit })?
            .map_err(failed)
    }

    fn http1(&self, io: Io) -> Established {
        Established::Http1(Stream { io, hears: Hears::Yes, open: self.tally.open() })
    }

    async fn http2(&self, stream: TlsStream<TcpStream>, most: Most) -> Result<Established, UpstreamError> {
        let Origin { ping_interval, ping_timeout, answers, .. } = self.origin;
        let (sender, mut driver) = http2::Builder::new(Executor(self.tasks.clone()))
            .timer(TokioTimer::new())
            .keep_alive_interval(ping_interval)
            .keep_alive_timeout(ping_timeout)
            .initial_max_send_streams(most.get())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(answers.head)
            // Large, and part of every request that waits for a connection.
            .handshake(TokioIo::new(Box::new(Counted::new(stream, answers.interim))))
            .await?;
        let open = self.tally.open();
        let dial = self.origin.dial.clone();
        self.tasks.spawn("http2-connection", async move {
            // hyper polls it for each request, which is often enough to hear of a change.
            let ended = poll_fn(|cx| {
                let polled = Pin::new(&mut driver).poll(cx);
                most.learn(driver.current_max_send_streams());
                polled
            });
            let ended = ended.await;
            drop(open);
            if let Err(error) = ended {
                tracing::debug!(%dial, %error, "an HTTP/2 connection ended");
            }
        });
        Ok(Established::Http2(sender))
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// How hosts are found and connected to.
pub(super) struct Reach<'a> {
    pub(super) names: &'a Names,
    pub(super) named_by: NamedBy,
    pub(super) dns_timeout: Duration,
    pub(super) connect_timeout: Duration,
}

impl Reach<'_> {
    /// A connection to `dial`, straight or through `via`. A proxy looks the name up itself: what it leads to is in its
    /// hands.
    pub(super) async fn host(&self, dial: &HostPort, via: Option<&ProxyUrl>) -> Result<TcpStream, UpstreamError> {
        if self.named_by == NamedBy::Caller && bounds::is_name_off_limits(&dial.host) {
            return Err(UpstreamError::OffLimits { dial: dial.clone() });
        }
        match via {
            None => self.connect(dial, self.named_by).await,
            Some(proxy) => self.through(proxy, dial).await,
        }
    }

    /// A connection that the proxy has led to where the origin is; who is there, a TLS handshake tells.
    async fn through(&self, proxy: &ProxyUrl, dial: &HostPort) -> Result<TcpStream, UpstreamError> {
        let failed = |source| UpstreamError::Proxy { proxy: proxy.clone(), dial: dial.clone(), source };
        let address = HostPort { host: proxy.host.clone(), port: proxy.port };
        let unreachable = |error| failed(ProxyFault::Connect(error));
        let connected = self.connect(&address, NamedBy::Config).await;
        let mut tcp = connected.map_err(|error| unreachable(io::Error::other(error)))?;
        tunnel::open(&mut tcp, proxy, dial, self.connect_timeout).await.map_err(failed)?;
        Ok(tcp)
    }

    /// Looks the name up anew and connects to one of its addresses.
    async fn connect(&self, dial: &HostPort, named_by: NamedBy) -> Result<TcpStream, UpstreamError> {
        let Self { names, dns_timeout, connect_timeout, .. } = *self;
        let found = timeout(dns_timeout, names.find(&dial.host, dial.port))
            .await
            .map_err(|_elapsed| UpstreamError::ResolveTimeout { host: dial.host.clone(), limit: dns_timeout })?;
        let addresses = found.map_err(|source| UpstreamError::Resolve { host: dial.host.clone(), source })?;
        // One such address among others is enough: an honest name has none.
        if named_by == NamedBy::Caller && addresses.iter().any(|address| bounds::is_off_limits(address.ip())) {
            return Err(UpstreamError::OffLimits { dial: dial.clone() });
        }
        let stream = timeout(connect_timeout, race::connect(addresses))
            .await
            .map_err(|_elapsed| UpstreamError::ConnectTimeout { dial: dial.clone(), limit: connect_timeout })?
            .map_err(|source| UpstreamError::Connect { dial: dial.clone(), source })?;
        // A request is written whole; waiting to fill a packet would only add latency.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        Ok(stream)
    }
}

/// Runs what an HTTP/2 connection starts.
#[derive(Clone)]
struct Executor(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, work: F) {
        self.0.spawn("http2-stream", work);
    }
}

/// A connection's bytes.
///
/// A peer that answers a request before it has all of it, a 413 say, and closes, makes the next write fail while its
/// answer lies in our receive buffer. So a write that fails because the peer has closed is no error: what is written from
/// then on is thrown away, and reading tells what the peer had to say, if only that it has closed.
#[derive(Debug)]
pub(super) struct Stream {
    io: Io,
    hears: Hears,
    #[expect(dead_code, reason = "held for its drop: the connection counts until then")]
    open: Open,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Whether the peer still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hears {
    Yes,
    No,
}

impl Stream {
    /// Has its socket watched by the runtime of the thread that calls; that of another thread would be woken for each answer,
    /// to wake this one.
    ///
    /// # Errors
    /// [`io::Error`], and all stays as it was: no descriptor is left, or the runtime ends.
    pub(super) fn watch_here(&mut self) -> io::Result<()> {
        let socket = match &mut self.io {
            Io::Plain(socket) => socket,
            Io::Tls(stream) => stream.get_mut().0,
        };
        let same = socket.as_fd().try_clone_to_owned()?;
        *socket = TcpStream::from_std(same.into())?;
        Ok(())
    }

    /// Runs a write of some kind; `done` is what it comes to once the peer no longer reads.
    fn poll_toward_peer<T>(
        &mut self,
        done: T,
        write: impl FnOnce(Pin<&mut (dyn AsyncWrite + Unpin)>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.hears == Hears::No {
            return Poll::Ready(Ok(done));
        }
        let written = match &mut self.io {
            Io::Plain(stream) => write(Pin::new(stream)),
            Io::Tls(stream) => write(Pin::new(stream)),
        };
        if let Poll::Ready(Err(error)) = &written
            && is_closed_by_peer(error)
        {
            self.hears = Hears::No;
            return Poll::Ready(Ok(done));
        }
        written
    }
}

fn is_closed_by_peer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Tls(stream) => {
                // Who waits for an answer asks once before it is there; the socket says so in a third of the time.
                let (socket, session) = stream.get_ref();
                if session.wants_read() {
                    ready!(socket.poll_read_ready(cx))?;
                }
                Pin::new(stream).poll_read(cx, buffer)
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_toward_peer(bytes.len(), |stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = pieces.iter().map(|piece| piece.len()).sum();
        self.get_mut().poll_toward_peer(all, |stream| stream.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_toward_peer((), |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_toward_peer((), |stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_connection_that_has_moved_is_independent_of_where_it_was_made() {
        let [old, new] = [(); 2].map(|()| Builder::new_current_thread().enable_all().build().unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let io = Io::Plain(old.block_on(TcpStream::connect(listener.local_addr().unwrap())).unwrap());
        let (mut peer, _) = listener.accept().unwrap();
        let mut stream = Stream { io, hears: Hears::Yes, open: Tally::default().open() };
        new.block_on(async {
            stream.watch_here().unwrap();
            drop(tokio::task::spawn_blocking(|| drop(old)).await);
            stream.write_all(b"ping").await.unwrap();
            let mut four = [0; 4];
            peer.read_exact(&mut four).unwrap();
            peer.write_all(&four).unwrap();
            assert_eq!((stream.read_exact(&mut four).await.unwrap(), four), (4, *b"ping"));
        });
    }

    #[tokio::test]
    async fn the_addresses_of_a_callers_name_are_judged_and_those_of_the_configs_are_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let limit = Duration::from_secs(10);
        // Past the look at the name: what counts here is where the lookup leads.
        let dial = HostPort { host: "localhost".to_owned(), port };
        let names = Names::system();
        let reach = |named_by| Reach { names: &names, named_by, dns_timeout: limit, connect_timeout: limit };
        let refused = reach(NamedBy::Caller).connect(&dial, NamedBy::Caller).await;
        assert!(matches!(refused, Err(UpstreamError::OffLimits { .. })), "{refused:?}");
        assert!(reach(NamedBy::Config).connect(&dial, NamedBy::Config).await.is_ok());
        drop(listener.accept().await.unwrap());
        let nobody = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(nobody.is_err(), "nothing was dialled for the caller");
        let named = reach(NamedBy::Caller).host(&dial, None).await;
        assert!(matches!(named, Err(UpstreamError::OffLimits { .. })));
    }
}
