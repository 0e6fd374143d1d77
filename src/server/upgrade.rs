//! What goes on over a client's connection after HTTP has ended there with a 101, or a 2xx to CONNECT.
//!
//! Whoever answers so puts a [`Tunnel`] into its response. The connection runs it once the answer is out, on its own
//! task: so it takes a place among the connections, is a request in flight until its end, and is cut with the others.
//! Imports nothing of ours.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use http::Response;

/// Work on a connection that speaks HTTP no more. A response's extensions want clones; only one of them has the work.
#[derive(Clone)]
pub struct Tunnel(Arc<Mutex<Option<Work>>>);

pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Tunnel {
    /// Lets `work` begin once `response` has gone out. If it never does, `work` is dropped.
    pub fn follow<B>(response: &mut Response<B>, work: impl Future<Output = ()> + Send + 'static) {
        response.extensions_mut().insert(Self(Arc::new(Mutex::new(Some(Box::pin(work))))));
    }

    pub(super) fn take_from<B>(response: &mut Response<B>) -> Option<Work> {
        let Self(work) = response.extensions_mut().remove()?;
        work.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}
