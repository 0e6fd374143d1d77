//! What a store can do for a fleet, and how it can fail.
//!
//! Entries and leases belong to a slot, the name of one credential. Every step is atomic in the store, so that of a thousand
//! who ask at once one has the lease. Imports `auth::error`, `diagnosis`.

use std::future::Future;
use std::io;
use std::time::Duration;

use crate::auth::error::{FetchError, printable};
use crate::diagnosis::{Cause, Diagnosis, transport};
use crate::route::upstream::HostPort;

/// A store that a fleet shares. How long a call may take is its caller's to say: every one may be dropped.
pub trait Store: Send + Sync + 'static {
    /// Has what a connection needs at hand; `anew` where what is at hand may be old.
    fn prepare(&self, anew: bool) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What stands in the slot.
    fn look(&self, slot: &str) -> impl Future<Output = Result<Looked, StoreError>> + Send;

    /// The lease of the slot, if nobody has it and the entry is still `seen` (empty for none).
    fn take(&self, slot: &str, seen: &[u8], lease: Lease<'_>)
    -> impl Future<Output = Result<Taken, StoreError>> + Send;

    /// The lease lives on for its life from now; false if it is another's by now.
    fn extend(&self, slot: &str, lease: Lease<'_>) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The lease ends, and for `pause` nobody may take it, because who asked has failed.
    fn rest(&self, slot: &str, fence: &str, pause: Duration) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The entry for `life`, and the end of the lease; false if that is another's by now, who will write a newer one.
    fn publish(
        &self,
        slot: &str,
        fence: &str,
        entry: Sealed<'_>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The entry, where there is none.
    fn offer(&self, slot: &str, entry: Sealed<'_>) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// The entry goes, if it still is `sealed`; true for the one of many whose call did it.
    fn discard(&self, slot: &str, sealed: &[u8]) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Whether all of this could be done just now.
    fn probe(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// No connection is used again.
    fn reset(&self);

    /// That it took longer than `limit`.
    fn slow(&self, limit: Duration) -> StoreError;

    /// Where it is, in words.
    fn describe(&self) -> String;
}

/// What stands in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The entry, perhaps, cut behind 64 KiB; empty for none.
    pub sealed: Vec<u8>,
    /// How long the store will keep it; `None` for ever.
    pub left: Option<Duration>,
    /// Whether it could be fetched anew.
    pub lease: Held,
}

/// Who has the lease of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nobody.
    Free,
    /// Somebody is fetching.
    Fetching,
    /// Nobody may have it for a moment, because who asked has failed.
    Resting,
}

/// An entry on its way to the store.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// How long it is kept.
    pub life: Duration,
}

/// Who holds the right to fetch, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Lease<'a> {
    /// Tells this holder from all others.
    pub fence: &'a str,
    /// How long it lives without [`Store::extend`].
    pub life: Duration,
}

/// What came of taking a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is ours.
    Ours,
    /// It is another's.
    Others,
    /// There is another entry by now.
    Changed,
}

/// A store that did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Name lookup, TCP or a connection that broke.
    #[error("connecting to {server}")]
    Unreachable {
        /// Whom.
        server: HostPort,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake.
    #[error("TLS with {server}")]
    Tls {
        /// With whom.
        server: HostPort,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("{server} did not answer within {limit:?}")]
    TimedOut {
        /// Who.
        server: HostPort,
        /// How long was waited.
        limit: Duration,
    },
    /// An error of its own.
    #[error("{server} refused: {code}{}", words(message))]
    Refused {
        /// Who.
        server: HostPort,
        /// Its error code, such as `NOPERM`.
        code: String,
        /// Its own words, if any.
        message: String,
    },
    /// An answer that is none.
    #[error("{server} gave an answer that is none of Redis")]
    Malformed {
        /// Who.
        server: HostPort,
    },
    /// Bytes in a slot that are no entry.
    #[error("an entry that is none of this fleet's: another wrote it, or it was changed")]
    Garbage,
    /// User name or password could not be read.
    #[error("the user name or password of the token cache")]
    Login(#[source] FetchError),
}

impl StoreError {
    /// Its refusal, fit for a log.
    pub(super) fn refused(server: &HostPort, code: &str, message: &str) -> Self {
        Self::Refused { server: server.clone(), code: printable(code), message: printable(message) }
    }

    /// Whether the store is left alone for it: an entry that cannot be read is written anew instead.
    pub fn shuns(&self) -> bool {
        !matches!(self, Self::Garbage)
    }

    /// Why, the likeliest first.
    pub fn diagnose(&self) -> Diagnosis {
        let of_the_way = |found: Option<Diagnosis>| found.map(|found| found.first().cause);
        match self {
            Self::Unreachable { source, .. } => {
                Diagnosis::of(Cause::CacheUnreachable).or_any(of_the_way(transport::diagnose(source)))
            }
            Self::Tls { source, .. } => {
                Diagnosis::of(Cause::CacheUnreachable).or_any(of_the_way(Some(transport::handshake(source))))
            }
            Self::TimedOut { .. } => Diagnosis::of(Cause::CacheSlow).or(Cause::CacheUnreachable),
            Self::Refused { code, .. } => Diagnosis::of(match code.as_str() {
                "WRONGPASS" | "NOAUTH" | "NOPERM" => Cause::CacheLogin,
                "READONLY" => Cause::CacheReadOnly,
                "OOM" => Cause::CacheFull,
                "MOVED" | "ASK" => Cause::CacheMoved,
                _ => Cause::CacheFailing,
            }),
            Self::Malformed { .. } => Diagnosis::of(Cause::CacheNotRedis),
            Self::Garbage => Diagnosis::of(Cause::CacheGarbage),
            Self::Login(error) => error.diagnose(),
        }
    }

    /// The code of the likeliest cause.
    pub fn code(&self) -> &'static str {
        self.diagnose().first().cause.code()
    }
}

fn words(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}
