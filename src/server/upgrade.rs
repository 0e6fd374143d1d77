//! What goes on over a client's connection after HTTP has ended there with a 101, or a 2xx to CONNECT.
//!
//! Whoever answers so puts a [`Tunnel`] into its response. The connection runs it once the answer is out, on its own
//! task: so it takes a place among the connections and is cut with the others. Imports `server::{connection, drain}`.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use http::Response;

use super::Drain;
use super::connection::Timers;

/// Work on a connection that speaks HTTP no more. A response's extensions want clones; only one of them has the work.
#[derive(Clone)]
pub struct Tunnel(Arc<Mutex<Option<Sequel>>>);

/// What goes on.
pub(super) struct Sequel {
    pub(super) counts: Counts,
    begin: Box<dyn FnOnce(Timers, Drain) -> Work + Send>,
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a drain takes it for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// A request in flight until its end: nobody knows what passes.
    Request,
    /// A connection, whose requests count each.
    Connection,
}

impl Tunnel {
    /// Lets `work` begin once `response` has gone out. If it never does, `work` is dropped.
    pub fn follow<B>(response: &mut Response<B>, work: impl Future<Output = ()> + Send + 'static) {
        Self::put(response, Counts::Request, |_, _| Box::pin(work));
    }

    /// The same for work that serves requests: it keeps the timers of its connection, and ends with the drain by itself.
    pub fn converse<B, F>(response: &mut Response<B>, work: impl FnOnce(Timers, Drain) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::put(response, Counts::Connection, |timers, drain| Box::pin(work(timers, drain)));
    }

    fn put<B>(response: &mut Response<B>, counts: Counts, begin: impl FnOnce(Timers, Drain) -> Work + Send + 'static) {
        let sequel = Sequel { counts, begin: Box::new(begin) };
        response.extensions_mut().insert(Self(Arc::new(Mutex::new(Some(sequel)))));
    }

    pub(super) fn take_from<B>(response: &mut Response<B>) -> Option<Sequel> {
        let Self(sequel) = response.extensions_mut().remove()?;
        sequel.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Sequel {
    /// Begins; dropped, it has never been.
    pub(super) fn begin(self, timers: Timers, drain: Drain) -> Work {
        (self.begin)(timers, drain)
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}
