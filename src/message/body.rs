//! Request bodies on their way out: streamed as they come, or read, hashed and held because a signature covers them.
//!
//! A body that is held has claimed its bytes from one process-wide budget before the first was read. A body that ends
//! early is an error all the way, so that an upstream never takes a part for the whole. Imports nothing of ours.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

/// How long a body waits for its share of the budget. Long enough for uploads to take turns, short enough that a
/// caller with a 30 s timeout of its own still reads our 503.
const BUDGET_WAIT: Duration = Duration::from_secs(10);
/// A body of unknown length claims this much at a time: 64 KiB, the size of hyper's reads.
const CLAIM_STEP: u64 = 64 * 1024;
/// A streamed body up to this size can be sent once more after a refusal (security.md 3.2).
const REPLAY_BUFFER: usize = 64 * 1024;
/// The budget is counted in these, so that a semaphore of `u32` permits spans 4 TiB.
const UNIT: u64 = 1024;

/// SHA-256 of a body, as 64 lower-case hex digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Sha256Hex(String);

/// A request body on its way out.
#[derive(Debug)]
pub struct OutboundBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Held { bytes: Bytes, claim: Arc<Claim> },
    Streaming(Streaming),
}

/// A body that passes as it comes. Its trailers stay here: nothing in them was checked (security.md T29).
#[derive(Debug)]
struct Streaming {
    incoming: Incoming,
    idle: IdleTimer,
    upload: Arc<Upload>,
    /// What has passed so far, while it is little enough to be sent once more.
    kept: Option<BytesMut>,
}

/// How far a body has come, seen from outside.
#[derive(Debug)]
pub struct Upload {
    begun: Instant,
    /// Milliseconds after `begun` at which a streamed body last moved or changed hands.
    moved: AtomicU64,
    passed: AtomicU64,
    turn: AtomicU8,
    failure: Mutex<Option<BodyError>>,
    whole: OnceLock<Bytes>,
}

/// What an upstream's connection is told of a body that broke off: end the exchange. Why it broke off is kept in its
/// [`Upload`], because an HTTP/2 connection forgets the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request body broke off")]
pub struct BrokenOff;

/// Whose move it is in a streaming upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The upstream has not taken what there is.
    Upstream,
    /// The client has not sent more.
    Client,
    /// All of it was passed on.
    Over,
}

impl Default for Upload {
    fn default() -> Self {
        let (moved, passed, turn) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU8::new(Turn::Upstream as u8));
        Self { begun: Instant::now(), moved, passed, turn, failure: Mutex::default(), whole: OnceLock::new() }
    }
}

impl Upload {
    /// When a streamed body last moved or changed hands.
    pub fn moved(&self) -> Instant {
        self.begun + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// Bytes passed on so far, or held.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Whose move it is.
    pub fn turn(&self) -> Turn {
        match self.turn.load(Ordering::Relaxed) {
            0 => Turn::Upstream,
            1 => Turn::Client,
            _ => Turn::Over,
        }
    }

    /// Why the client's side broke off, if it did. Told once.
    pub fn take_failure(&self) -> Option<BodyError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The body once more, if all of it passed and it was small enough to be kept.
    pub fn replay(&self) -> Option<OutboundBody> {
        let bytes = self.whole.get()?.clone();
        Some(OutboundBody(Kind::Held { bytes, claim: Arc::new(Claim(None)) }))
    }

    fn set(&self, turn: Turn) {
        self.turn.store(turn as u8, Ordering::Relaxed);
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(since, Ordering::Relaxed);
    }

    fn fail(&self, error: BodyError) -> BrokenOff {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        BrokenOff
    }
}

/// Why a request body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Larger than what may be held for a signature.
    #[error("the body is larger than {limit} bytes, the most that this route holds for signing")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The budget stayed full.
    #[error("no room for another {needed} bytes among the bodies held for signing")]
    NoRoom {
        /// Bytes that were asked for.
        needed: u64,
    },
    /// The client stopped sending.
    #[error("no byte of the body came for {0:?}")]
    Idle(Duration),
    /// The client went away or broke the framing.
    #[error("reading the request body")]
    Broken(#[source] hyper::Error),
}

/// The bytes that all held bodies may take together.
#[derive(Clone, Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: u64,
}

/// Bytes taken from the budget until it is dropped.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

impl Budget {
    /// A budget of `total` bytes.
    pub fn new(total: u64) -> Self {
        let units = usize::try_from(total / UNIT).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), total }
    }

    /// All its bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes claimed now.
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.units.available_permits() as u64 * UNIT)
    }

    /// Claims `bytes`, waiting for its turn until `deadline`.
    async fn claim(&self, bytes: u64, deadline: Instant) -> Result<Option<OwnedSemaphorePermit>, BodyError> {
        let no_room = || BodyError::NoRoom { needed: bytes };
        let units = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_too_many| no_room())?;
        if units == 0 {
            return Ok(None);
        }
        match timeout_at(deadline, Arc::clone(&self.units).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            Ok(Err(_)) | Err(_) => Err(no_room()),
        }
    }
}

/// Reads and hashes a body that a signature must cover.
///
/// With a known length the whole of it is claimed from `budget` before a byte is read; otherwise 64 KiB first, and then as
/// much again each time. `upload` is told how much there is.
///
/// # Errors
/// [`BodyError`]: `TooLarge` before reading when the length is known, else as soon as it shows.
///
/// # Cancellation
/// Dropping the future gives its claim back.
pub async fn hold(
    mut incoming: Incoming,
    limit: u64,
    budget: &Budget,
    idle: Duration,
    upload: &Upload,
) -> Result<(OutboundBody, Sha256Hex), BodyError> {
    if incoming.is_end_stream() {
        return Ok((OutboundBody::empty(), Sha256Hex::of_nothing()));
    }
    let known = incoming.size_hint().exact();
    if known.is_some_and(|length| length > limit) {
        return Err(BodyError::TooLarge { limit });
    }
    let deadline = Instant::now() + BUDGET_WAIT;
    let mut claimed = known.unwrap_or(CLAIM_STEP).min(limit);
    let mut permit = budget.claim(claimed, deadline).await?;
    let mut bytes = BytesMut::with_capacity(usize::try_from(claimed).unwrap_or_default());
    let mut hash = digest::Context::new(&SHA256);
    loop {
        let frame = match timeout(idle, incoming.frame()).await {
            Err(_) => return Err(BodyError::Idle(idle)),
            Ok(None) => break,
            Ok(Some(frame)) => frame.map_err(BodyError::Broken)?,
        };
        let Ok(data) = frame.into_data() else { continue };
        let length = (bytes.len() + data.len()) as u64;
        if length > limit {
            return Err(BodyError::TooLarge { limit });
        }
        if claimed < length {
            // What is claimed is what is allocated, so it doubles as a buffer does.
            let wanted = claimed.saturating_mul(2).clamp(length, limit);
            let more = budget.claim(wanted - claimed, Instant::now() + BUDGET_WAIT).await?;
            claimed = wanted;
            match (&mut permit, more) {
                (Some(permit), Some(more)) => permit.merge(more),
                (permit, more) => *permit = more,
            }
            let mut larger = BytesMut::with_capacity(usize::try_from(claimed).unwrap_or_default());
            larger.extend_from_slice(&bytes);
            bytes = larger;
        }
        hash.update(&data);
        bytes.extend_from_slice(&data);
        upload.passed.store(length, Ordering::Relaxed);
    }
    let sha256 = Sha256Hex::new(hash.finish().as_ref());
    if bytes.is_empty() {
        return Ok((OutboundBody::empty(), sha256));
    }
    let claim = Arc::new(Claim(permit));
    Ok((OutboundBody(Kind::Held { bytes: bytes.freeze(), claim }), sha256))
}

impl OutboundBody {
    /// No body.
    pub fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// A body that passes as it comes; `upload` tells how far it is.
    pub fn streaming(incoming: Incoming, idle: Duration, upload: Arc<Upload>) -> Self {
        if incoming.is_end_stream() {
            upload.set(Turn::Over);
            return Self::empty();
        }
        let small = incoming.size_hint().lower() <= REPLAY_BUFFER as u64;
        let kept = small.then(BytesMut::new);
        Self(Kind::Streaming(Streaming { incoming, idle: IdleTimer::new(idle), upload, kept }))
    }

    /// The same body once more, if all of it is at hand.
    pub fn replay(&self) -> Option<Self> {
        match &self.0 {
            Kind::Empty => Some(Self::empty()),
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
            Kind::Empty => Poll::Ready(None),
            Kind::Held { bytes, .. } => {
                // hyper drops this body as soon as its bytes are queued, and the bytes live on in the queue: the claim is
                // kept by the copy that the proxy holds for a second send, until the response head is there.
                let whole = std::mem::take(bytes);
                Poll::Ready((!whole.is_empty()).then(|| Ok(Frame::data(whole))))
            }
            Kind::Streaming(streaming) => streaming.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Held { bytes, .. } => bytes.is_empty(),
            Kind::Streaming(streaming) => streaming.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Held { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Kind::Streaming(streaming) => streaming.incoming.size_hint(),
        }
    }
}

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                self.upload.set(Turn::Client);
                ready!(self.idle.poll_elapsed(cx));
                let limit = self.idle.limit();
                return Poll::Ready(Some(Err(self.upload.fail(BodyError::Idle(limit)))));
            }
        };
        self.idle.restart();
        self.upload.set(Turn::Upstream);
        Poll::Ready(match frame {
            None => {
                self.end();
                None
            }
            Some(Err(error)) => Some(Err(self.upload.fail(BodyError::Broken(error)))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.upload.passed.fetch_add(data.len() as u64, Ordering::Relaxed);
                    self.keep(&data);
                    if self.incoming.is_end_stream() {
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
}

impl Streaming {
    fn keep(&mut self, data: &[u8]) {
        self.kept = self.kept.take().filter(|kept| kept.len() + data.len() <= REPLAY_BUFFER);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(data);
        }
    }

    fn end(&mut self) {
        self.upload.set(Turn::Over);
        if let Some(kept) = self.kept.take() {
            // Ends once.
            let _first = self.upload.whole.set(kept.freeze());
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

impl Sha256Hex {
    /// Of these 32 bytes.
    fn new(hash: &[u8]) -> Self {
        Self(hex(hash))
    }

    /// Of a body without a byte.
    pub fn of_nothing() -> Self {
        Self::of(b"")
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::new(digest::digest(&SHA256, bytes).as_ref())
    }

    /// 64 lower-case hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot go wrong.
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_claim_waits_for_its_turn_and_is_refused_when_none_comes() {
        let budget = Budget::new(10 * UNIT);
        let soon = || Instant::now() + BUDGET_WAIT;
        let first = budget.claim(8 * UNIT, soon()).await.unwrap();
        assert_eq!(budget.used(), 8 * UNIT);
        assert!(matches!(budget.claim(4 * UNIT, soon()).await, Err(BodyError::NoRoom { .. })));
        let waiting = {
            let budget = budget.clone();
            async move { budget.claim(4 * UNIT, Instant::now() + BUDGET_WAIT).await }
        };
        let (second, ()) = tokio::join!(waiting, async { drop(first) });
        assert_eq!(budget.used(), 4 * UNIT);
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_hash_of_nothing_is_the_well_known_one() {
        assert_eq!(
            Sha256Hex::of_nothing().as_str(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
