//! The listening side: sockets, connections, drain.
//!
//! Knows HTTP framing and time, not routes: requests go to a service that is passed in. Imports `message`, `tls`.

pub mod connection;
pub mod drain;
pub mod gate;
pub mod handed;
mod http2;
pub mod listener;
pub(crate) mod orphan;
pub(crate) mod secured;
#[cfg(unix)]
pub mod unix;
pub mod upgrade;
pub mod workers;

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;

pub use drain::{Drain, Ending};
pub use gate::judge::Refused;
pub use handed::Handed;
pub use listener::{BindError, Listener, Reach, Terms};
pub use workers::Workers;

use crate::tls::Identity;

/// What a service is asked: a request that has passed the gate, or why one did not.
pub type Arrival<B = Incoming> = Result<Request<B>, Refused>;

/// How clients are listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Addresses of the main listeners; never empty, unless `sockets` is not.
    pub listen: Vec<SocketAddr>,
    /// Unix sockets that are main listeners too.
    pub sockets: Vec<PathBuf>,
    /// Who may use those.
    #[cfg(unix)]
    pub socket_access: unix::Access,
    /// The certificate that TCP listeners show; `None` has them speak in plain text.
    pub tls: Option<Identity>,
    /// How far answers may travel.
    pub reach: Reach,
    /// Threads that serve connections; without, as many as this machine's CPUs call for.
    pub workers: Option<NonZero<usize>>,
    /// Connections at the same time, over all listeners.
    pub max_connections: usize,
    /// The longest pause after a connection could not be accepted.
    pub accept_pause: Duration,
    /// From the first byte of a request head to its end.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// What a request head may be.
    pub heads: gate::head::Limits,
    /// What is read ahead of a client, and kept of an answer that it does not take yet.
    pub copy_buffer: usize,
    /// How long requests may take to end once a stop was asked for.
    pub drain_timeout: Duration,
    /// How long there must have been none of them, until no connection is accepted any more.
    pub quiet: Duration,
}
