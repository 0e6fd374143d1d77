//! What tasks share, and what they wait for, of `auth::refreshing` and `server::drain`.
//!
//! Those two take it from here and from nowhere else, so that `tests/model` can compile the very same files with types of
//! its own, each of whose operations is a moment at which another task may come first. Imports nothing of ours.

pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(crate) use arc_swap::ArcSwap;
pub(crate) use tokio::sync::{Notify, watch};
pub(crate) use tokio::time::{sleep_until, timeout, timeout_at};
pub(crate) use tokio_util::sync::CancellationToken;
pub(crate) use tokio_util::task::TaskTracker;
pub(crate) use tokio_util::task::task_tracker::TaskTrackerToken as Token;
