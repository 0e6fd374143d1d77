//! Request bodies on their way out: streamed as they come, or read, hashed and held because a signature covers them.
//!
//! A body that is held has claimed its bytes from one process-wide budget before the first was read. A body that ends
//! early is an error all the way, so that an upstream never takes a part for the whole. Imports nothing of ours.

mod hold;
mod room;
mod upload;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

pub use self::hold::{Budget, Claim, Sha256Hex, hold};
pub use self::upload::{BodyError, BrokenOff, Turn, Upload};

/// A streamed body up to this size can be sent once more after a refusal, unless the config says otherwise (docs/rules.md 3.2).
pub const DEFAULT_REPLAY_BUFFER: usize = 64 * 1024;

/// A request body on its way out.
#[derive(Debug)]
pub struct OutboundBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty(Ending),
    Held { bytes: Bytes, claim: Arc<Claim> },
    Streaming(Streaming),
}

/// How the end of a body without a byte is told over HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// With the head.
    WithHead,
    /// By a frame of its own.
    Apart,
}

/// A body that passes as it comes. Its trailers stay here: nothing in them was checked (docs/rules.md 2.2).
#[derive(Debug)]
struct Streaming {
    /// Until its end, or until it broke off.
    source: Option<Box<Source>>,
    upload: Arc<Upload>,
}

/// Where a streamed body comes from.
#[derive(Debug)]
struct Source {
    incoming: Incoming,
    idle: IdleTimer,
    /// What has passed on an earlier connection, to be sent again first.
    again: Bytes,
    /// What has passed so far, while it is little enough to be sent once more.
    kept: Option<BytesMut>,
    /// As much as that may be.
    most_kept: usize,
}

impl OutboundBody {
    /// No body.
    pub fn empty() -> Self {
        Self(Kind::Empty(Ending::WithHead))
    }

    /// A body that passes as it comes; `upload` tells how far it is. Up to `most_kept` bytes are kept to be sent once more.
    pub fn streaming(incoming: Incoming, idle: Duration, most_kept: usize, upload: Arc<Upload>) -> Self {
        if incoming.is_end_stream() {
            upload.be_over();
            return Self::empty();
        }
        let small = incoming.size_hint().lower() <= most_kept as u64;
        let kept = small.then(BytesMut::new);
        upload.lend();
        let source = Box::new(Source { incoming, idle: IdleTimer::new(idle), again: Bytes::new(), kept, most_kept });
        Self(Kind::Streaming(Streaming { source: Some(source), upload }))
    }

    /// A body that was kept.
    fn kept(bytes: Bytes) -> Self {
        Self(Kind::Held { bytes, claim: Arc::new(Claim::nothing()) })
    }

    /// A body of which something has passed already.
    fn resumed(mut source: Box<Source>, upload: Arc<Upload>) -> Self {
        source.again = source.kept.as_ref().map(|kept| Bytes::copy_from_slice(kept)).unwrap_or_default();
        upload.lend();
        Self(Kind::Streaming(Streaming { source: Some(source), upload }))
    }

    /// The same, but over HTTP/2 it never ends with the head: a request that was written and taken back in the same
    /// moment is then never whole (RFC 9113 6.8 leaves open whether such a one is processed).
    #[must_use]
    pub fn ending_apart(self) -> Self {
        match self.0 {
            Kind::Empty(_) => Self(Kind::Empty(Ending::Apart)),
            kind @ (Kind::Held { .. } | Kind::Streaming(_)) => Self(kind),
        }
    }

    /// The same body once more, if all of it is at hand.
    pub fn replay(&self) -> Option<Self> {
        match &self.0 {
            Kind::Empty(_) => Some(Self::empty()),
            Kind::Held { bytes, claim } => Some(Self(Kind::Held { bytes: bytes.clone(), claim: Arc::clone(claim) })),
            Kind::Streaming(_) => None,
        }
    }

    /// Whether all of it is in memory.
    pub fn is_at_hand(&self) -> bool {
        !matches!(self.0, Kind::Streaming(_))
    }

    /// Bytes, if known.
    pub fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }
}

impl Body for OutboundBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.0 {
            Kind::Empty(_) => Poll::Ready(None),
            Kind::Held { bytes, .. } => {
                // Over HTTP/2, hyper drops this body as soon as its bytes are queued, and the bytes live on in the queue: the
                // claim is kept by the copy that the proxy holds for a second send, until the response head is there.
                let whole = std::mem::take(bytes);
                Poll::Ready((!whole.is_empty()).then(|| Ok(Frame::data(whole))))
            }
            Kind::Streaming(streaming) => streaming.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty(ending) => *ending == Ending::WithHead,
            Kind::Held { bytes, .. } => bytes.is_empty(),
            Kind::Streaming(streaming) => streaming.source.as_ref().is_none_or(|source| source.is_over()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty(_) => SizeHint::with_exact(0),
            Kind::Held { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Kind::Streaming(streaming) => {
                streaming.source.as_ref().map(|source| source.size_hint()).unwrap_or_default()
            }
        }
    }
}

impl Source {
    fn is_over(&self) -> bool {
        self.again.is_empty() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.incoming.size_hint();
        let again = self.again.len() as u64;
        // The upper bound first: it may not fall below the lower one.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + again);
        }
        hint.set_lower(hint.lower() + again);
        hint
    }

    fn keep(&mut self, data: &[u8]) {
        self.kept = self.kept.take().filter(|kept| kept.len() + data.len() <= self.most_kept);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(data);
        }
    }
}

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        if !source.again.is_empty() {
            let again = std::mem::take(&mut source.again);
            if source.incoming.is_end_stream() {
                self.end();
            }
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        let frame = match Pin::new(&mut source.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                self.upload.set(Turn::Client);
                ready!(source.idle.poll_elapsed(cx));
                let limit = source.idle.limit();
                return Poll::Ready(Some(Err(self.break_off(BodyError::Idle(limit)))));
            }
        };
        source.idle.restart();
        self.upload.set(Turn::Upstream);
        Poll::Ready(match frame {
            None => {
                self.end();
                None
            }
            Some(Err(error)) => Some(Err(self.break_off(BodyError::Broken(error)))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.upload.pass(data.len());
                    source.keep(&data);
                    if source.incoming.is_end_stream() {
                        self.end();
                    }
                    Some(Ok(Frame::data(data)))
                }
                Err(_trailers) => {
                    self.end();
                    None
                }
            },
        })
    }

    fn break_off(&mut self, error: BodyError) -> BrokenOff {
        self.source = None;
        self.upload.complete(None);
        self.upload.fail(error)
    }

    fn end(&mut self) {
        self.upload.set(Turn::Over);
        let kept = self.source.take().and_then(|source| source.kept);
        self.upload.complete(kept);
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            self.upload.give_back(source);
        }
    }
}

/// A timer for the gap between two pieces. It is armed only when something has to be waited for, and moved without
/// touching the runtime's timer wheel: a body that flows costs no timer.
pub struct IdleTimer {
    limit: Duration,
    waiting_since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    /// A timer that fires after `limit` of waiting.
    pub fn new(limit: Duration) -> Self {
        Self { limit, waiting_since: None, sleep: None }
    }

    /// The longest wait.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// A piece came.
    pub fn restart(&mut self) {
        self.waiting_since = None;
    }

    /// Ready once nothing came for the whole limit.
    pub fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = since + self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

impl fmt::Debug for IdleTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleTimer").field("limit", &self.limit).finish_non_exhaustive()
    }
}
