//! One client connection: HTTP/1.0 and 1.1 by hyper, with two timers of our own.
//!
//! hyper's one timer cannot tell a slow head from an idle connection (security.md F4); the socket wrapper here can,
//! because the service tells it when a request is under way. Imports `server::drain`, `message`.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::drain::{Drain, InFlight};
use crate::message::body::IdleTimer;

/// A request head may be this large (security.md 3.2); more is 431.
pub(super) const LARGEST_HEAD: usize = 32 * 1024;
/// And have this many fields.
const MOST_FIELDS: usize = 100;
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
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let turns = Arc::new(Turns::default());
    let io = TimedIo::new(io, timers, Arc::clone(&turns));
    let service = service_fn(|request| {
        turns.begin();
        let during = During { turns: Arc::clone(&turns), in_flight: drain.enter() };
        let answer = service(request);
        async {
            let mut response = answer.await;
            if drain.is_leaving() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response.map(|body| Answer { body, _during: during }))
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

/// What the service tells the socket about requests.
#[derive(Debug, Default)]
struct Turns {
    busy: AtomicBool,
    /// How many have begun: one may begin and end without the socket being read meanwhile.
    begun: AtomicU64,
}

impl Turns {
    fn begin(&self) {
        self.busy.store(true, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }
}

/// Marks the connection busy, and the process, until the answer's end.
#[derive(Debug)]
struct During {
    turns: Arc<Turns>,
    #[expect(dead_code, reason = "held for its drop")]
    in_flight: InFlight,
}

impl Drop for During {
    fn drop(&mut self) {
        self.turns.busy.store(false, Ordering::Relaxed);
    }
}

pin_project_lite::pin_project! {
    /// An answer's body that knows when it is over.
    struct Answer<B> {
        #[pin]
        body: B,
        _during: During,
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

/// A socket that gives up on a client that says nothing, or not enough.
struct TimedIo<IO> {
    io: IO,
    timers: Timers,
    turns: Arc<Turns>,
    /// Requests known to have begun.
    known: u64,
    waiting: Waiting,
    sleep: Option<Pin<Box<Sleep>>>,
    /// A client that takes nothing of its answer would hold its places for ever.
    stalled: IdleTimer,
}

/// What the connection waits for.
#[derive(Clone, Copy, Debug)]
enum Waiting {
    /// A request's service; its own timers run.
    Service,
    /// The first byte of a head, since then.
    Head(Instant),
    /// The rest of a head whose first byte came then.
    RestOfHead(Instant),
}

impl<IO> TimedIo<IO> {
    fn new(io: IO, timers: Timers, turns: Arc<Turns>) -> Self {
        Self {
            io,
            timers,
            turns,
            known: 0,
            waiting: Waiting::Head(Instant::now()),
            sleep: None,
            stalled: IdleTimer::new(timers.idle),
        }
    }

    /// Keeps track of what is waited for, and returns until when; `None` while a request is served.
    fn deadline(&mut self) -> Option<Instant> {
        let begun = self.turns.begun.load(Ordering::Relaxed);
        if begun != self.known {
            self.known = begun;
            self.waiting = Waiting::Service;
        }
        if self.turns.busy.load(Ordering::Relaxed) {
            return None;
        }
        if let Waiting::Service = self.waiting {
            self.waiting = Waiting::Head(Instant::now());
        }
        match self.waiting {
            Waiting::Service => None,
            Waiting::Head(since) => Some(since + self.timers.idle),
            Waiting::RestOfHead(since) => Some(since + self.timers.head),
        }
    }

    /// Passes on what a write came to; gives up when the client has taken nothing for the idle time.
    fn poll_taken<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled.restart();
            return outcome;
        }
        ready!(self.stalled.poll_elapsed(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            // An earlier deadline needs a new timer; a later one waits until the old one has fired.
            if sleep.deadline() > deadline {
                sleep.as_mut().reset(deadline);
            }
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for TimedIo<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let deadline = self.deadline();
        let before = buffer.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buffer) {
            Poll::Ready(outcome) => {
                if let Waiting::Head(_) = self.waiting
                    && buffer.filled().len() > before
                {
                    self.waiting = Waiting::RestOfHead(Instant::now());
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                let Some(deadline) = deadline else { return Poll::Pending };
                ready!(self.poll_deadline(cx, deadline));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for TimedIo<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.poll_taken(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, pieces);
        self.poll_taken(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO> fmt::Debug for TimedIo<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimedIo").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}
