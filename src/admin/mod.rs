//! The admin port: `/livez`, `/readyz`, `/startupz`, `/metrics`.

use std::net::SocketAddr;

/// Where the admin pages are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// All pages.
    pub listen: SocketAddr,
    /// The probes alone, for a kubelet that comes from outside the pod.
    pub health_listen: Option<SocketAddr>,
}
