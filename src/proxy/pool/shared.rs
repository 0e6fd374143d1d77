//! HTTP/2 connections, each shared by as many requests as its upstream takes, and what their failures say.
//!
//! hyper would let requests wait for a place on a full connection for as long as others take: here the next connection is
//! dialled for them.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use tokio::time::Instant;

use super::connection::UpstreamBody;
use super::{Reuse, Sent, Undelivered};
use crate::message::body::OutboundBody;
use crate::message::framing;

/// Requests at the same time on one connection until the upstream has said how many (RFC 9113 6.5.2 asks for no fewer).
const FIRST: usize = 100;

type Sender = http2::SendRequest<OutboundBody>;
type Failed = hyper::client::conn::TrySendError<Request<OutboundBody>>;

/// How many requests an origin takes at the same time on one connection, as it last said.
#[derive(Clone, Debug)]
pub(super) struct Most(Arc<AtomicUsize>);

impl Default for Most {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(FIRST)))
    }
}

impl Most {
    /// The number, one at least: an upstream that takes none is asked all the same.
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed).max(1)
    }

    /// The upstream has said so.
    pub(super) fn learn(&self, most: usize) {
        self.0.store(most, Ordering::Relaxed);
    }

    /// One of `busy` was refused, so perhaps there were too many. What the upstream says next counts again.
    fn doubt(&self, busy: usize) {
        self.0.fetch_min(busy.saturating_sub(1), Ordering::Relaxed);
    }
}

/// An HTTP/2 connection, driven by a task of its own.
pub(super) struct Shared {
    sender: Sender,
    begun: Instant,
    /// No new request after this.
    until: Instant,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct Load {
    busy: AtomicUsize,
    used: AtomicBool,
}

impl Shared {
    /// A new connection, and the place on it of the request that it was made for.
    pub(super) fn begin(sender: Sender, until: Instant, most: &Most) -> (Self, Place) {
        let shared = Self { sender, begun: Instant::now(), until, load: Arc::default() };
        let place = shared.place(most);
        (shared, place)
    }

    /// Whether it takes new requests.
    pub(super) fn is_open(&self) -> bool {
        self.until > Instant::now() && !self.sender.is_closed()
    }

    /// Whether no request is on it.
    pub(super) fn is_idle(&self) -> bool {
        self.load.busy.load(Ordering::Relaxed) == 0
    }

    /// A place on it, if `reuse` admits it and fewer than `most` are taken. Callers take turns.
    pub(super) fn enter(&self, reuse: Reuse, most: &Most) -> Option<Place> {
        if !reuse.admits(self.begun) || self.load.busy.load(Ordering::Relaxed) >= most.get() {
            return None;
        }
        Some(self.place(most))
    }

    fn place(&self, most: &Most) -> Place {
        self.load.busy.fetch_add(1, Ordering::Relaxed);
        let reused = self.load.used.swap(true, Ordering::Relaxed);
        let taken = Taken(Arc::clone(&self.load));
        Place { sender: self.sender.clone(), taken, reused, most: most.clone() }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("load", &self.load).finish_non_exhaustive()
    }
}

/// A place on a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken(Arc<Load>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place on a connection, for one request.
#[derive(Debug)]
pub(super) struct Place {
    sender: Sender,
    taken: Taken,
    reused: bool,
    most: Most,
}

impl Place {
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends `request` and waits for the response head.
    pub(super) async fn exchange(
        mut self,
        request: Request<OutboundBody>,
    ) -> Result<Response<UpstreamBody>, Undelivered> {
        match self.sender.try_send_request(request).await {
            Ok(response) => self.answered(response),
            Err(failed) => Err(self.undelivered(failed)),
        }
    }

    fn answered(self, mut response: Response<Incoming>) -> Result<Response<UpstreamBody>, Undelivered> {
        framing::judge(response.status(), response.headers_mut()).map_err(Undelivered::framing)?;
        Ok(response.map(|incoming| UpstreamBody::http2(incoming, self.taken)))
    }

    fn undelivered(&self, mut failed: Failed) -> Undelivered {
        let sent = match failed.take_message() {
            Some(request) => Sent::Nothing(Box::new(request)),
            None => match fate(failed.error()) {
                Fate::Refused => {
                    self.most.doubt(self.taken.0.busy.load(Ordering::Relaxed));
                    Sent::Unprocessed
                }
                Fate::Left => Sent::Unprocessed,
                Fate::Gone if self.reused => Sent::OnReusedConnection,
                Fate::Gone | Fate::Unknown => Sent::Something,
            },
        };
        Undelivered { error: failed.into_error().into(), sent }
    }
}

/// What an error says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not processed: this stream was one too many (RFC 9113 8.7).
    Refused,
    /// Not processed: the connection takes no new streams any more (RFC 9113 6.8). h2 gives this error to streams above
    /// the last one that the upstream names, and to none below.
    Left,
    /// The connection ended.
    Gone,
    /// Perhaps it was processed.
    Unknown,
}

fn fate(error: &hyper::Error) -> Fate {
    let Some(reason) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else {
        // A timeout is that of the pings: the connection may have been dead for a while, or only slow. Bytes that cannot
        // be taken are an answer all the same.
        let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        let is_answer = io.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData);
        return if error.is_timeout() || is_answer { Fate::Unknown } else { Fate::Gone };
    };
    if reason.is_remote() && reason.is_go_away() {
        Fate::Left
    } else if reason.is_remote() && reason.reason() == Some(h2::Reason::REFUSED_STREAM) {
        Fate::Refused
    } else {
        Fate::Unknown
    }
}
