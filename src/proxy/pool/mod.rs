//! Connections to upstreams: kept, shared, and never trusted for long.
//!
//! Our own pool for two reasons. An HTTP/1 connection is driven by the request that uses it, without a task of its own
//! ([`connection`]). And what is known of a request that was not answered is known exactly, which decides whether it may be
//! sent again. Over HTTP/2, hyper's client has the connection. Imports `route`, `tls`, `tasks`, `message`.

mod census;
mod checkout;
mod connection;
mod dial;
pub mod elsewhere;
mod error;
mod interim;
mod names;
mod outgoing;
mod race;
mod retries;
mod shared;
mod tunnel;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::HeaderValue;
use http::uri::Scheme;
use prometheus_client::collector::Collector;
use tokio::runtime::{self, Handle};
use tokio::time::Instant;

use self::census::Census;
use self::checkout::Ready;
pub use self::checkout::{Answered, Checkout, Form};
use self::connection::H1;
pub use self::connection::{Switched, UpstreamBody};
use self::dial::{Dialer, Established};
pub use self::error::{ExchangeError, Sent, Undelivered, UpstreamError};
pub use self::names::Names;
use self::retries::Retries;
use self::shared::{Most, Shared};
pub use self::tunnel::ProxyFault;
use super::skew::Skew;
use crate::route::Origin;
use crate::tasks::Tasks;
use crate::tls::{ClientSettings, Fingerprint, Http2, SystemRoots, TlsError};

/// Connections kept unused for one origin; with more clients than this, some dial again.
const MAX_IDLE: usize = 256;

/// All connections of the process.
#[derive(Debug)]
pub struct Pool {
    roots: SystemRoots,
    tasks: Tasks,
    names: Names,
    census: Census,
    tls: Mutex<HashMap<ClientSettings, (Fingerprint, Arc<rustls::ClientConfig>)>>,
}

impl Pool {
    /// An empty pool, which looks names up in `names`.
    pub fn new(roots: SystemRoots, tasks: Tasks, names: Names) -> Self {
        Self { roots, tasks, names, census: Census::default(), tls: Mutex::default() }
    }

    /// Counts the connections, for the metrics.
    pub fn census(&self) -> impl Collector + use<> {
        self.census.clone()
    }

    /// The connections of `origin`, shared by all routes that have an equal one, those of a config before this one among
    /// them. Files that hold something else than when the others were made make it another.
    ///
    /// # Errors
    /// [`TlsError`] when its certificate files cannot be used.
    pub fn origin(&self, origin: &Origin) -> Result<Arc<Connections>, TlsError> {
        let files = origin.tls.fingerprint();
        let mut origins = lock(&self.census.origins);
        let known = origins.get(origin).filter(|(then, _)| *then == files);
        if let Some(known) = known.and_then(|(_, known)| known.upgrade()) {
            return Ok(known);
        }
        let tls = if origin.scheme == Scheme::HTTPS { Some(self.tls(&origin.tls, files)?) } else { None };
        let dialer = Dialer::new(origin.clone(), tls, self.tasks.clone(), self.names.clone());
        let connections = Arc::new(Connections::by(dialer.counted(self.census.tally(origin))));
        self.tasks.spawn("pool-reaper", reap(Arc::downgrade(&connections), origin.pool_idle_timeout));
        origins.retain(|_, (_, connections)| connections.strong_count() > 0);
        origins.insert(origin.clone(), (files, Arc::downgrade(&connections)));
        Ok(connections)
    }

    fn tls(&self, settings: &ClientSettings, files: Fingerprint) -> Result<Arc<rustls::ClientConfig>, TlsError> {
        let mut known = lock(&self.tls);
        if let Some((_, config)) = known.get(settings).filter(|(then, _)| *then == files) {
            return Ok(Arc::clone(config));
        }
        let alpn: &[&[u8]] = match settings.http2 {
            Http2::Auto => &[b"h2", b"http/1.1"],
            Http2::Never => &[b"http/1.1"],
        };
        let config = Arc::new(self.roots.client_config(settings, alpn)?);
        // Those that no connection is left of.
        known.retain(|_, (_, config)| Arc::strong_count(config) > 1);
        known.insert(settings.clone(), (files, Arc::clone(&config)));
        Ok(config)
    }
}

/// The connections of one origin.
#[derive(Debug)]
pub struct Connections {
    dialer: Dialer,
    /// What requests call it.
    host: HeaderValue,
    /// Of the origin's clock.
    skew: Skew,
    retries: Retries,
    /// On one HTTP/2 connection.
    most: Most,
    kept: Mutex<Kept>,
    /// Held while dialling an origin that may speak HTTP/2, so that a burst of requests makes one connection.
    dialling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    speaks: Speaks,
    idle: Vec<Idle>,
    shared: Vec<Shared>,
}

impl Kept {
    /// The one used last is the one most likely to be alive; of those whose socket is watched `here`, while there is one.
    fn take_idle(&mut self, here: runtime::Id) -> Option<Idle> {
        let near = self.idle.iter().rposition(|idle| idle.connection.worker == here);
        let at = near.or_else(|| self.idle.len().checked_sub(1))?;
        Some(self.idle.remove(at))
    }
}

/// What the origin chose in its last handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Speaks {
    #[default]
    Unknown,
    Http1,
    Http2,
}

#[derive(Debug)]
struct Idle {
    connection: Box<H1>,
    since: Instant,
}

/// Whether a request may go on a connection that was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It may.
    Allowed,
    /// One made before this has failed it, and the others may have been closed with that one.
    NewerThan(Instant),
}

impl Reuse {
    /// Whether a connection that was made at `begun` will do.
    fn admits(self, begun: Instant) -> bool {
        match self {
            Self::Allowed => true,
            Self::NewerThan(failed) => begun > failed,
        }
    }
}

impl Connections {
    /// None yet, of those that `dialer` will make.
    fn by(dialer: Dialer) -> Self {
        // An authority is a valid field value: both are printable ASCII.
        let host = HeaderValue::from_str(dialer.origin.authority.as_str());
        Self {
            dialer,
            host: host.unwrap_or_else(|_never| HeaderValue::from_static("")),
            skew: Skew::default(),
            retries: Retries::default(),
            most: Most::default(),
            kept: Mutex::default(),
            dialling: tokio::sync::Mutex::new(()),
        }
    }

    /// A connection: one that is kept, or a new one.
    ///
    /// # Errors
    /// [`UpstreamError`] of name lookup, connection or TLS, within `connect_timeout` and `tls_timeout` together.
    pub async fn checkout(self: &Arc<Self>, reuse: Reuse) -> Result<Checkout, UpstreamError> {
        let ready = match self.take_kept(reuse) {
            Some(ready) => ready,
            // Rare and large: on the heap, so that the requests that find a connection stay small.
            None => Box::pin(self.dial(reuse)).await?,
        };
        Ok(Checkout::new(ready, Arc::clone(self)))
    }

    /// A request is sent for the first time: that earns a part of a retry.
    pub fn earn_retry(&self) {
        self.retries.earn();
    }

    /// Whether one more request may be sent again; it counts as sent then.
    pub fn may_retry(&self) -> bool {
        self.retries.spend()
    }

    /// How far the origin's clock is from ours.
    pub fn skew(&self) -> &Skew {
        &self.skew
    }

    /// The origin these connections lead to.
    pub fn origin(&self) -> &Origin {
        &self.dialer.origin
    }

    /// What it is called in `Host`.
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// How many wait for a request.
    fn idle(&self) -> usize {
        let kept = lock(&self.kept);
        kept.idle.len() + kept.shared.iter().filter(|shared| shared.is_idle()).count()
    }

    fn take_kept(&self, reuse: Reuse) -> Option<Ready> {
        let now = Instant::now();
        let mut kept = lock(&self.kept);
        kept.shared.retain(Shared::is_open);
        // The newest first: an older one may be going away without our having heard of it.
        if let Some(place) = kept.shared.iter().rev().find_map(|shared| shared.enter(reuse, &self.most)) {
            return Some(Ready::Http2(place));
        }
        if reuse != Reuse::Allowed {
            return None;
        }
        let here = Handle::current().id();
        while let Some(idle) = kept.take_idle(here) {
            let mut connection = idle.connection;
            let fresh = now.duration_since(idle.since) < self.origin().pool_idle_timeout && connection.until > now;
            if fresh && connection.is_alive() {
                drop(kept);
                connection.taken();
                return Some(Ready::Http1(connection));
            }
        }
        None
    }

    async fn dial(&self, reuse: Reuse) -> Result<Ready, UpstreamError> {
        if lock(&self.kept).speaks == Speaks::Http1 || !self.dialer.may_speak_http2() {
            return self.establish().await;
        }
        // Whoever waits here waits for a handshake that it can share; the deadline covers both its wait and its own try.
        let origin = self.origin();
        let limit = origin.connect_timeout + origin.tls_timeout;
        // Large, and made for one request of many.
        let attempt = Box::pin(async {
            let turn = self.dialling.lock().await;
            if let Some(ready) = self.take_kept(reuse) {
                return Ok(ready);
            }
            if lock(&self.kept).speaks == Speaks::Http1 {
                // The one before found that there is nothing to share: all who waited dial at once.
                drop(turn);
            }
            self.establish().await
        });
        tokio::time::timeout(limit, attempt)
            .await
            .unwrap_or_else(|_elapsed| Err(UpstreamError::ConnectTimeout { dial: origin.dial.clone(), limit }))
    }

    async fn establish(&self) -> Result<Ready, UpstreamError> {
        let until = Instant::now() + jittered(self.origin().max_connection_age);
        match self.dialer.establish(&self.most).await? {
            Established::Http1(stream) => {
                lock(&self.kept).speaks = Speaks::Http1;
                Ok(Ready::Http1(H1::new(stream, self.origin().answers, until)))
            }
            Established::Http2(sender) => {
                let (shared, place) = Shared::begin(sender, until, &self.most);
                let mut kept = lock(&self.kept);
                kept.speaks = Speaks::Http2;
                kept.shared.push(shared);
                Ok(Ready::Http2(place))
            }
        }
    }

    /// Keeps a connection whose exchange is over, unless its time is, too.
    fn keep(&self, connection: Box<H1>) {
        let since = Instant::now();
        if since >= connection.until {
            return;
        }
        let mut kept = lock(&self.kept);
        if kept.idle.len() < MAX_IDLE {
            kept.idle.push(Idle { connection, since });
        }
    }
}

/// A life of `age` plus or minus 20 %, so that connections made together do not end together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// Closes connections that nobody used for `limit`; nobody polls them meanwhile.
async fn reap(connections: Weak<Connections>, limit: Duration) {
    // A quarter of the limit keeps the overstay small at little cost.
    let mut ticks = tokio::time::interval((limit / 4).max(Duration::from_millis(100)));
    loop {
        ticks.tick().await;
        let Some(connections) = connections.upgrade() else { return };
        let now = Instant::now();
        let mut kept = lock(&connections.kept);
        kept.idle.retain_mut(|idle| {
            now.duration_since(idle.since) < limit && idle.connection.until > now && idle.connection.is_alive()
        });
        kept.shared.retain(Shared::is_open);
    }
}

/// A lock that a panic elsewhere does not poison: what it guards is valid between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
