//! The way of a request: guard, match, rewrite, authorise, forward, relay, record.

pub mod guard;
pub mod outcome;
pub mod pool;

use crate::units::ByteSize;

/// Limits and names that hold for every route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Host names callers may use besides loopback names and the routes' own; lower case, no port.
    pub allowed_hosts: Vec<String>,
    /// Requests at the same time, over all routes.
    pub max_in_flight: usize,
    /// All bodies held for signing, together.
    pub buffer_budget: ByteSize,
}
