//! The listening side: sockets, connections, drain.
//!
//! Knows HTTP framing and time, not routes: requests go to a service that is passed in. Imports `message`.

pub mod connection;
pub mod drain;
pub mod listener;
pub mod upgrade;

use std::net::SocketAddr;
use std::time::Duration;

pub use drain::Drain;
pub use listener::{BindError, Listener};

/// How clients are listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Addresses of the main listeners; never empty.
    pub listen: Vec<SocketAddr>,
    /// Connections at the same time, over all listeners.
    pub max_connections: usize,
    /// From the first byte of a request head to its end.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long requests may take to end once a stop was asked for.
    pub drain_timeout: Duration,
}
