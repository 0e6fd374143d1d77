//! Tunnels: from a caller's WebSocket handshake or CONNECT to the bytes that follow the answer.
//!
//! A WebSocket's is off unless a route says `websocket = true`. The handshake is authorised and sent like any GET; only an
//! answer that is right for it (RFC 6455 4.1) opens a tunnel, every other status is an answer like any other. CONNECT is
//! answered once its connection is there. What passes then is counted and not looked at, but for where a WebSocket's frames
//! end: once a stop asks for it, the client is told between two of them that we are going away (1001), and the closing
//! handshake is left to both sides. Imports `server`, `message`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header;
use http::{HeaderMap, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::outcome::Outcome;
use super::pool::Switched;
use super::record::Exchange;
use super::relay::{self, Permits, Relayed};
use crate::message::fields::{self, REQUEST_ID, Trailers};
use crate::message::frames::{Frames, GOING_AWAY};
use crate::message::websocket::{self, Accept, HandshakeError, UPGRADE, WEBSOCKET};
use crate::server::connection::Timers;
use crate::server::upgrade::Tunnel;
use crate::server::{Drain, Ending};

/// Silence of both sides that ends a tunnel. API Gateway itself ends a connection after 10 minutes without a message;
/// waiting longer leaves it the word, and its close code to the client.
const IDLE: Duration = Duration::from_mins(15);
/// The same once one side has ended. Neither WebSocket nor TLS knows a half-closed connection: whoever sends nothing more now
/// is gone.
const LINGER: Duration = Duration::from_secs(30);
/// What is read at once, in each direction.
const BUFFER: usize = 16 * 1024;

/// A caller's handshake, and its connection once a 101 has gone out on it.
#[derive(Debug)]
pub struct Handshake {
    client: OnUpgrade,
    accept: Accept,
    /// Who says when to end it.
    ending: Option<Ending>,
}

impl Handshake {
    /// What `request` asks for: `None` if not for a WebSocket.
    pub fn read(request: &mut Request<Incoming>) -> Option<Result<Self, HandshakeError>> {
        let accept = websocket::asked(request.method(), request.version(), request.headers())?;
        let ending = request.extensions_mut().remove();
        Some(accept.map(|accept| Self { client: hyper::upgrade::on(request), accept, ending }))
    }

    /// Whether a 101 with these fields answers it.
    pub fn is_answered_by(&self, headers: &HeaderMap) -> bool {
        self.accept.is_given_by(headers)
    }

    /// Answers it with the upstream's 101, and lets the bytes pass from then on.
    pub fn open(
        self,
        response: Response<Switched>,
        mut exchange: Box<Exchange>,
        permits: Permits,
    ) -> Response<Relayed> {
        let (mut parts, upstream) = response.into_parts();
        exchange.answering(parts.status);
        fields::strip_response(&mut parts.headers, Trailers::Unwanted);
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.insert(header::CONNECTION, UPGRADE);
        parts.headers.insert(header::UPGRADE, WEBSOCKET);
        parts.headers.entry(REQUEST_ID).or_insert_with(|| exchange.request_id().clone());
        let mut response = Response::from_parts(parts, ());
        let carrying = Carrying { exchange, passed: Passed::new(), _permits: permits };
        let (upstream, first) = upstream.into_parts();
        Tunnel::follow(&mut response, carrying.run(self.client, upstream, first, self.ending));
        relay::switching(response)
    }
}

/// A caller's CONNECT, and its connection once a 200 has gone out on it.
#[derive(Debug)]
pub struct Connecting(OnUpgrade);

impl Connecting {
    /// `None` if `request` does not ask for a tunnel.
    pub fn read(request: &mut Request<Incoming>) -> Option<Self> {
        let asks = request.method() == Method::CONNECT && request.version() < Version::HTTP_2;
        asks.then(|| Self(hyper::upgrade::on(request)))
    }

    fn answer(exchange: &mut Exchange) -> Response<()> {
        let mut response = Response::new(());
        exchange.answering(response.status());
        response.headers_mut().insert(REQUEST_ID, exchange.request_id().clone());
        // The words of old, which some clients look for.
        response.extensions_mut().insert(ReasonPhrase::from_static(b"Connection established"));
        response
    }

    /// Answers it with 200, and has `talk` go on with its connection in the place of whom the client asked for.
    pub(super) fn converse<F>(
        self,
        mut exchange: Box<Exchange>,
        talk: impl FnOnce(TokioIo<Upgraded>, Box<Exchange>, Timers, Drain) -> F + Send + 'static,
    ) -> Response<Relayed>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut response = Self::answer(&mut exchange);
        Tunnel::converse(&mut response, move |timers, drain| async move {
            // Without the connection nobody is left to tell.
            let Ok(client) = self.0.await else { return };
            talk(TokioIo::new(client), exchange, timers, drain).await;
        });
        relay::switching(response)
    }

    /// Answers it with 200, and lets the bytes pass to `upstream` and back from then on.
    pub fn open(self, upstream: TcpStream, mut exchange: Box<Exchange>, permits: Permits) -> Response<Relayed> {
        let mut response = Self::answer(&mut exchange);
        let carrying = Carrying { exchange, passed: Passed::new(), _permits: permits };
        Tunnel::follow(&mut response, carrying.run(self.0, upstream, Bytes::new(), None));
        relay::switching(response)
    }
}

/// A tunnel and its record, which is made however it ends.
#[derive(Debug)]
struct Carrying {
    exchange: Box<Exchange>,
    passed: Passed,
    _permits: Permits,
}

impl Carrying {
    async fn run<U>(mut self, client: OnUpgrade, upstream: U, first: Bytes, ending: Option<Ending>)
    where
        U: AsyncRead + AsyncWrite + Unpin,
    {
        // Without the connection nobody is left to tell.
        let Ok(client) = client.await else { return };
        let goodbye = ending.map(|ending| async move { ending.told().await });
        match carry(TokioIo::new(client), upstream, first, &self.passed, goodbye).await {
            Ok(()) => self.exchange.ended(Outcome::Delivered, None),
            Err(Broken::Client(error)) => self.exchange.ended(Outcome::ClientAborted, Some(&error)),
            Err(Broken::Upstream(error)) => self.exchange.ended(Outcome::Truncated, Some(&error)),
        }
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        let Passed { up, down, .. } = &self.passed;
        self.exchange.carried(up.load(Ordering::Relaxed), down.load(Ordering::Relaxed));
    }
}

/// Whose connection broke.
#[derive(Debug)]
enum Broken {
    Client(std::io::Error),
    Upstream(std::io::Error),
}

/// What has passed so far, and when.
#[derive(Debug)]
struct Passed {
    up: AtomicU64,
    down: AtomicU64,
    begun: Instant,
    /// Milliseconds after `begun`.
    last: AtomicU64,
    /// Directions that have ended.
    ended: AtomicU64,
}

impl Passed {
    fn new() -> Self {
        let [up, down, last, ended] = [const { AtomicU64::new(0) }; 4];
        Self { up, down, begun: Instant::now(), last, ended }
    }

    fn touch(&self) {
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// Ready after too long a silence.
    async fn idle(&self) {
        loop {
            let limit = if self.ended.load(Ordering::Relaxed) == 0 { IDLE } else { LINGER };
            let until = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
            if until <= Instant::now() {
                return;
            }
            // An end is noticed a linger later at most.
            sleep_until(until.min(Instant::now() + LINGER)).await;
        }
    }
}

/// Carries bytes both ways until both have ended, one breaks, or nothing moves any more. `first` came from `upstream`.
/// Once `goodbye` is ready, the client of a WebSocket gets a Close between two frames, and nothing behind it.
async fn carry<C, U>(
    client: C,
    upstream: U,
    first: Bytes,
    passed: &Passed,
    goodbye: Option<impl Future<Output = ()>>,
) -> Result<(), Broken>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (from_client, to_client) = tokio::io::split(client);
    let (from_upstream, to_upstream) = tokio::io::split(upstream);
    let up = async {
        let way = OneWay { from: from_client, to: to_upstream, buffer: BytesMut::new(), count: &passed.up, passed };
        let outcome = way.run(None::<std::future::Pending<()>>).await;
        outcome.map_err(|failed| match failed {
            Failed::Reading(error) => Broken::Client(error),
            Failed::Writing(error) => Broken::Upstream(error),
        })
    };
    let down = async {
        let buffer = BytesMut::from(first);
        let way = OneWay { from: from_upstream, to: to_client, buffer, count: &passed.down, passed };
        let outcome = way.run(goodbye).await;
        outcome.map_err(|failed| match failed {
            Failed::Reading(error) => Broken::Upstream(error),
            Failed::Writing(error) => Broken::Client(error),
        })
    };
    tokio::select! {
        outcome = async { tokio::try_join!(up, down) } => outcome.map(|((), ())| ()),
        () = passed.idle() => Ok(()),
    }
}

enum Failed {
    Reading(std::io::Error),
    Writing(std::io::Error),
}

/// One direction of a tunnel.
struct OneWay<'a, R, W> {
    from: R,
    to: W,
    /// What was read and is not written yet.
    buffer: BytesMut,
    count: &'a AtomicU64,
    passed: &'a Passed,
}

/// Whether the reader is still told what the other side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// It never will be: the bytes are not a WebSocket's, or not for the client.
    Never,
    /// It is.
    Unsaid,
    /// It will be told to go at the end of a frame.
    Due,
    /// It was told to go, and what comes behind that is not for it.
    Said,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> OneWay<'_, R, W> {
    async fn run(mut self, goodbye: Option<impl Future<Output = ()>>) -> Result<(), Failed> {
        let mut farewell = if goodbye.is_some() { Farewell::Unsaid } else { Farewell::Never };
        let mut goodbye = std::pin::pin!(async {
            match goodbye {
                Some(goodbye) => goodbye.await,
                None => std::future::pending().await,
            }
        });
        let mut frames = Frames::default();
        loop {
            match farewell {
                Farewell::Never => {}
                Farewell::Unsaid => frames.pass(&self.buffer),
                Farewell::Due => {
                    let passing = frames.to_room(&self.buffer);
                    self.buffer.truncate(passing);
                    if frames.has_room() {
                        self.buffer.extend_from_slice(&GOING_AWAY);
                        farewell = Farewell::Said;
                    }
                }
                Farewell::Said => self.buffer.clear(),
            }
            self.write().await?;
            self.buffer.reserve(BUFFER);
            let read = tokio::select! {
                read = self.from.read_buf(&mut self.buffer) => read,
                () = &mut goodbye, if farewell == Farewell::Unsaid => {
                    farewell = Farewell::Due;
                    continue;
                }
            };
            match read {
                Ok(0) => break,
                Ok(_) => {}
                // A TLS peer that leaves without close_notify. Frames have lengths, so nothing looks more whole than it is.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(Failed::Reading(error)),
            }
            self.passed.touch();
        }
        self.passed.ended.fetch_add(1, Ordering::Relaxed);
        self.passed.touch();
        self.to.shutdown().await.map_err(Failed::Writing)
    }

    async fn write(&mut self) -> Result<(), Failed> {
        while !self.buffer.is_empty() {
            let written = self.to.write_buf(&mut self.buffer).await.map_err(Failed::Writing)?;
            self.count.fetch_add(written as u64, Ordering::Relaxed);
            self.passed.touch();
        }
        self.to.flush().await.map_err(Failed::Writing)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::duplex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_ends_after_a_long_silence_and_not_before() {
        let ((mut client, near), (far, mut upstream)) = (duplex(64), duplex(64));
        let passed = Passed::new();
        let (begun, almost) = (Instant::now(), IDLE.saturating_sub(Duration::from_secs(1)));
        let talk = async {
            for _ in 0..3 {
                tokio::time::sleep(almost).await;
                client.write_all(b"ping").await.unwrap();
                upstream.read_exact(&mut [0; 4]).await.unwrap();
            }
            (client, upstream)
        };
        let (outcome, _ends) = tokio::join!(carry(near, far, Bytes::new(), &passed, Some(pending())), talk);
        assert!(outcome.is_ok());
        let limit = 3 * almost + IDLE;
        assert!(begun.elapsed() >= limit && begun.elapsed() < limit + LINGER, "{:?}", begun.elapsed());
        assert_eq!(passed.up.load(Ordering::Relaxed), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_passes_on_and_the_other_direction_still_has_its_say() {
        let ((mut client, near), (far, mut upstream)) = (duplex(64), duplex(64));
        let passed = Passed::new();
        let talk = async {
            client.shutdown().await.unwrap();
            assert_eq!(upstream.read(&mut [0; 4]).await.unwrap(), 0);
            upstream.write_all(b"bye").await.unwrap();
            drop(upstream);
            let mut last = String::new();
            client.read_to_string(&mut last).await.unwrap();
            assert_eq!(last, "first bye");
        };
        let (outcome, ()) =
            tokio::join!(carry(near, far, Bytes::from_static(b"first "), &passed, Some(pending())), talk);
        assert!(outcome.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_stays_behind_is_not_waited_for_long() {
        let ((client, near), (far, upstream)) = (duplex(64), duplex(64));
        let passed = Passed::new();
        let begun = Instant::now();
        drop(upstream);
        assert!(carry(near, far, Bytes::new(), &passed, Some(pending())).await.is_ok());
        assert!(begun.elapsed() <= 2 * LINGER, "{:?}", begun.elapsed());
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_goodbye_is_said_between_two_frames_and_is_the_last_word() {
        let ((mut client, near), (far, mut upstream)) = (duplex(64), duplex(64));
        let passed = Passed::new();
        let (say, said) = tokio::sync::oneshot::channel();
        let goodbye = async { said.await.unwrap() };
        let talk = async {
            let mut read = async |length: usize| {
                let mut bytes = vec![0; length];
                client.read_exact(&mut bytes).await.unwrap();
                bytes
            };
            upstream.write_all(&[0x81, 5, b'h', b'e']).await.unwrap();
            assert_eq!(read(4).await, [0x81, 5, b'h', b'e']);
            say.send(()).unwrap();
            // Passes once everybody waits.
            tokio::time::sleep(Duration::from_millis(1)).await;
            upstream.write_all(b"llo\x81\x04late").await.unwrap();
            assert_eq!(read(7).await, [b"llo", &GOING_AWAY[..]].concat());
            // The client's own Close, masked; the upstream's answer to it is no longer for the client.
            let close = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];
            client.write_all(&close).await.unwrap();
            let mut told = [0; 8];
            upstream.read_exact(&mut told).await.unwrap();
            assert_eq!(told, close);
            upstream.write_all(&[0x88, 2, 0x03, 0xe9]).await.unwrap();
            drop(upstream);
            assert_eq!(client.read(&mut [0; 4]).await.unwrap(), 0);
        };
        let (outcome, ()) = tokio::join!(carry(near, far, Bytes::new(), &passed, Some(goodbye)), talk);
        assert!(outcome.is_ok());
    }
}
