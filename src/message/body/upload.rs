//! How far a body has come, and what is left of it for sending it once more.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::{OutboundBody, Source};

/// An HTTP/2 connection that has failed lets go of its requests' bodies as soon as its task runs; on a busy machine that is
/// milliseconds.
const LET_GO: Duration = Duration::from_secs(1);

/// How far a body has come, seen from outside.
#[derive(Debug)]
pub struct Upload {
    begun: Instant,
    /// Milliseconds after `begun` at which a streamed body last moved or changed hands.
    moved: AtomicU64,
    passed: AtomicU64,
    turn: AtomicU8,
    failure: Mutex<Option<BodyError>>,
    state: Mutex<Kept>,
    changed: Notify,
}

/// What there is of a streamed body for sending it once more.
#[derive(Debug, Default)]
enum Kept {
    /// Not all of it, or nobody will ask any more.
    #[default]
    Lost,
    /// A connection has it.
    Out,
    /// All of it has passed.
    Whole(Bytes),
    /// A connection has let go of it.
    Back(Box<Source>),
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
        let (failure, state, changed) = (Mutex::default(), Mutex::default(), Notify::new());
        Self { begun: Instant::now(), moved, passed, turn, failure, state, changed }
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
        lock(&self.failure).take()
    }

    /// The body once more, if all of it passed and it was small enough to be kept.
    pub fn replay(&self) -> Option<OutboundBody> {
        match &*lock(&self.state) {
            Kept::Whole(bytes) => Some(OutboundBody::kept(bytes.clone())),
            Kept::Lost | Kept::Out | Kept::Back(_) => None,
        }
    }

    /// The body once more, if nothing of it is lost: what has passed is sent again, and the rest as it comes. Waits
    /// until the connection that failed has let go of it.
    pub async fn recover(self: &Arc<Self>) -> Option<OutboundBody> {
        let let_go = async {
            loop {
                let changed = self.changed.notified();
                // In a statement of its own: a guard would live until the end of the match.
                let state = std::mem::take(&mut *lock(&self.state));
                match state {
                    Kept::Lost => return None,
                    Kept::Whole(bytes) => {
                        *lock(&self.state) = Kept::Whole(bytes.clone());
                        return Some(OutboundBody::kept(bytes));
                    }
                    Kept::Back(source) => return Some(OutboundBody::resumed(source, Arc::clone(self))),
                    Kept::Out => *lock(&self.state) = Kept::Out,
                }
                changed.await;
            }
        };
        timeout(LET_GO, let_go).await.unwrap_or_default()
    }

    /// A connection has the body, so far as it has come.
    pub(super) fn lend(&self) {
        *lock(&self.state) = Kept::Out;
    }

    /// More has passed.
    pub(super) fn pass(&self, bytes: usize) {
        self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So much is held.
    pub(super) fn hold(&self, bytes: u64) {
        self.passed.store(bytes, Ordering::Relaxed);
    }

    /// The request is answered: nobody will ask for the body again.
    pub fn settle(&self) {
        *lock(&self.state) = Kept::Lost;
    }

    /// What a connection has let go of, if it is still asked for.
    pub(super) fn give_back(&self, source: Box<Source>) {
        let mut state = lock(&self.state);
        if matches!(*state, Kept::Out) {
            *state = if source.kept.is_some() { Kept::Back(source) } else { Kept::Lost };
            self.changed.notify_one();
        }
    }

    /// All of it has passed; these are its bytes, if they are few.
    pub(super) fn complete(&self, kept: Option<BytesMut>) {
        let mut state = lock(&self.state);
        if matches!(*state, Kept::Out) {
            *state = kept.map_or(Kept::Lost, |kept| Kept::Whole(kept.freeze()));
            self.changed.notify_one();
        }
    }

    /// There is nothing to pass.
    pub(super) fn be_over(&self) {
        self.turn.store(Turn::Over as u8, Ordering::Relaxed);
    }

    pub(super) fn set(&self, turn: Turn) {
        self.turn.store(turn as u8, Ordering::Relaxed);
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(since, Ordering::Relaxed);
    }

    pub(super) fn fail(&self, error: BodyError) -> BrokenOff {
        *lock(&self.failure) = Some(error);
        BrokenOff
    }
}

/// Why a request body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Larger than what may be held for a signature.
    #[error("the body is larger than {limit} bytes, the most that this route holds for signing (max_body)")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// Not larger than that, but than all that may be held together: memory does not suffice for what is configured.
    #[error(
        "the body is larger than {budget} bytes, all that may be held for signing here (buffer_budget, lowered to fit the memory)"
    )]
    LargerThanBudget {
        /// The budget, in bytes.
        budget: u64,
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

/// A lock that a panic elsewhere does not poison: what it guards is valid between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
