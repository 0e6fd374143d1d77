//! One client connection that speaks HTTP/2, as TLS listeners offer it.
//!
//! The limits bound what a hostile client can make us hold or do: streams it opens and resets, frames that want an
//! answer, heads that never end (CVE-2023-44487, CVE-2024-27316 and their kin). Imports `server::{connection, drain, gate}`.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::Timers;
use super::drain::{Drain, InFlight};
use super::gate::head::{HeadError, Limits};
use super::{Arrival, Refused};

/// Requests at the same time on one connection: what one route takes by default, and below `max_in_flight`.
const MOST_STREAMS: u32 = 256;
/// Streams that a client has reset before they were looked at. More end the connection (h2's own default).
const MOST_PENDING_RESETS: usize = 20;
/// Streams that we have refused or reset for a client's errors. More end the connection. Room for a burst of one that has
/// not read our SETTINGS yet: the RFC lets it open any number until then (RFC 9113 6.5.2).
const MOST_ERROR_RESETS: usize = 1024;
/// Taken of one connection's bodies before the upstreams take them.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A client that is gone without a word is noticed in twice this time.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Serves one connection until its end; ends it early when `drain` says so.
pub(super) async fn serve<IO, S, F, B>(io: IO, timers: Timers, drain: Drain, service: S)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Fn(Arrival) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let activity = Arc::new(Activity::default());
    let streams = Streams { drain: drain.clone(), limit: timers.idle, latest: Arc::default() };
    let latest = Arc::clone(&streams.latest);
    let service = service_fn(|mut request: Request<Incoming>| {
        join_cookies(request.headers_mut());
        let is_head = request.method() == Method::HEAD;
        let turn = activity.begin(drain.enter());
        *lock(&latest) = Some(Arc::clone(&turn.taking));
        // h2 has judged the framing; of what the gate is for, the limits alone are left.
        let answer = service(limit(request, timers.heads));
        async move { Ok::<_, std::convert::Infallible>(finish(answer.await, is_head, turn)) }
    });
    let connection = http2::Builder::new(streams)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_PENDING_RESETS)
        .max_local_error_reset_streams(MOST_ERROR_RESETS)
        // Above our own limit: what h2 refuses by itself leaves no trace. Its sum has 32 bytes more for each field.
        .max_header_list_size(u32::try_from(2 * timers.heads.bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(u32::try_from(timers.buffer).unwrap_or(u32::MAX))
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(timers.buffer)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => return log_end(outcome),
        // GOAWAY is what `Connection: close` is to HTTP/1, and nothing can be lost by it: the first one has room for what
        // is on its way. A connection that comes now has a request to make, which a GOAWAY must not overtake.
        ((), ()) = async { tokio::join!(drain.leaving(), activity.asked.cancelled()) } => {
            connection.as_mut().graceful_shutdown();
        }
        () = drain.closed() => connection.as_mut().graceful_shutdown(),
        () = activity.silence(timers.idle) => {
            connection.as_mut().graceful_shutdown();
            // Time for a GOAWAY to arrive; streams that nobody has taken from for so long are not waited for.
            if let Ok(outcome) = timeout(timers.head, connection).await {
                log_end(outcome);
            }
            return;
        }
    }
    tokio::select! {
        outcome = connection => log_end(outcome),
        () = drain.cut() => {}
    }
}

fn log_end(outcome: Result<(), hyper::Error>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "an HTTP/2 client connection ended");
    }
}

/// The gate's limits on a head, as it would be written in HTTP/1.
fn limit(request: Request<Incoming>, limits: Limits) -> Arrival {
    let headers = request.headers();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    // Colon, space, and the end of the line.
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let error = if target > limits.target {
        HeadError::TargetTooLong
    } else if headers.len() > limits.fields {
        HeadError::TooManyFields
    } else if target + fields > limits.bytes {
        HeadError::TooLarge
    } else {
        return Ok(request);
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    Err(Refused { error, method: Some(method), path: Some(path) })
}

/// HTTP/2 clients may send cookies in pieces; HTTP/1.1 knows one line of them (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Answers that must not have content get none: hyper sees to that in HTTP/1 alone (RFC 9110 6.4.1).
fn finish<B: Body>(mut response: Response<B>, is_head: bool, turn: Turn) -> Response<Answer<B>> {
    let mute = is_head || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if is_head
        && let Some(length) = response.body().size_hint().exact().filter(|length| *length > 0)
        && !response.headers().contains_key(header::CONTENT_LENGTH)
    {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response.map(|body| Answer { body, mute, turn })
}

/// Each stream's task is counted with the connections, so that a drain waits for it, and ends when all must; or when its
/// client has taken nothing of the answer for too long, which would hold places however busy the other streams are.
#[derive(Clone)]
struct Streams {
    drain: Drain,
    /// On a client that takes nothing.
    limit: Duration,
    /// Of the request that the service was asked last: its task is started next.
    latest: Arc<Mutex<Option<Arc<Taking>>>>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (drain, limit, taking) = (self.drain.clone(), self.limit, lock(&self.latest).take());
        self.drain.connections().spawn(async move {
            let stalled = async {
                match taking {
                    Some(taking) => taking.stalled(limit).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stream => {}
                () = drain.cut() => {}
                () = stalled => tracing::debug!(?limit, "a client takes nothing of an answer"),
            }
        });
    }
}

/// Since when it is the client who keeps one answer waiting.
#[derive(Debug)]
struct Taking {
    started: Instant,
    /// Milliseconds after `started`; `OURS` while it does not.
    since: AtomicU64,
}

const OURS: u64 = u64::MAX;

impl Taking {
    fn pass(&self, to_us: bool) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(OURS);
        self.since.store(if to_us { OURS } else { now }, Ordering::Relaxed);
    }

    /// Ready once the client has kept it waiting for `limit`.
    async fn stalled(&self, limit: Duration) {
        let mut until = self.started + limit;
        loop {
            sleep_until(until).await;
            until = match self.since.load(Ordering::Relaxed) {
                OURS => Instant::now() + limit,
                since => self.started + Duration::from_millis(since) + limit,
            };
            if until <= Instant::now() {
                return;
            }
        }
    }
}

/// A lock that a panic elsewhere does not poison: what it guards is replaced at once.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happens on a connection, for telling whether anything does.
#[derive(Debug)]
struct Activity {
    started: Instant,
    /// Streams that wait for us or for an upstream, which have timers of their own.
    ours: AtomicUsize,
    /// Milliseconds after `started` at which a request last began, ended or moved.
    touched: AtomicU64,
    /// Cancelled with the first request.
    asked: CancellationToken,
}

impl Default for Activity {
    fn default() -> Self {
        let (ours, touched) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { started: Instant::now(), ours, touched, asked: CancellationToken::new() }
    }
}

impl Activity {
    fn begin(self: &Arc<Self>, in_flight: InFlight) -> Turn {
        self.touch();
        self.asked.cancel();
        self.ours.fetch_add(1, Ordering::Relaxed);
        let taking = Arc::new(Taking { started: Instant::now(), since: AtomicU64::new(OURS) });
        Turn { activity: Arc::clone(self), taking, is_ours: true, in_flight }
    }

    fn touch(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.touched.store(since, Ordering::Relaxed);
    }

    /// Ready when the client has asked for nothing, and taken nothing of an answer, for `limit`.
    async fn silence(&self, limit: Duration) {
        loop {
            let until = self.started + Duration::from_millis(self.touched.load(Ordering::Relaxed)) + limit;
            if self.ours.load(Ordering::Relaxed) > 0 {
                // Its end touches, so nothing is missed meanwhile.
                sleep(limit).await;
            } else if Instant::now() >= until {
                return;
            } else {
                sleep_until(until).await;
            }
        }
    }
}

/// Whose move it is in one stream.
#[derive(Debug)]
struct Turn {
    activity: Arc<Activity>,
    taking: Arc<Taking>,
    is_ours: bool,
    #[expect(dead_code, reason = "held for its drop")]
    in_flight: InFlight,
}

impl Turn {
    fn pass(&mut self, to_us: bool) {
        self.activity.touch();
        self.taking.pass(to_us);
        match (self.is_ours, to_us) {
            (true, false) => self.activity.ours.fetch_sub(1, Ordering::Relaxed),
            (false, true) => self.activity.ours.fetch_add(1, Ordering::Relaxed),
            (true, true) | (false, false) => 0,
        };
        self.is_ours = to_us;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pass(false);
    }
}

pin_project_lite::pin_project! {
    /// An answer's body that knows whether it is the client who keeps it waiting.
    struct Answer<B> {
        #[pin]
        body: B,
        mute: bool,
        turn: Turn,
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if *this.mute {
            return Poll::Ready(None);
        }
        let polled = this.body.poll_frame(cx);
        this.turn.pass(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.mute || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.mute { SizeHint::with_exact(0) } else { self.body.size_hint() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_of_a_cookie_are_one_line() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2; c=3", "d=\u{e9}"] {
            headers.append(header::COOKIE, HeaderValue::from_bytes(crumb.as_bytes()).unwrap());
        }
        join_cookies(&mut headers);
        let lines: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(lines, ["a=1; b=2; c=3; d=\u{e9}".as_bytes()]);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_the_clients_alone() {
        const LIMIT: Duration = Duration::from_mins(10);
        let activity = Arc::new(Activity::default());
        let started = Instant::now();
        activity.silence(LIMIT).await;
        assert_eq!(started.elapsed(), LIMIT, "nothing was asked");
        let mut turn = activity.begin(Drain::default().enter());
        assert!(timeout(10 * LIMIT, activity.silence(LIMIT)).await.is_err(), "the upstream is slow");
        turn.pass(false);
        let passed = Instant::now();
        activity.silence(LIMIT).await;
        assert!(passed.elapsed() >= LIMIT && passed.elapsed() <= 2 * LIMIT, "the client takes nothing");
    }
}
