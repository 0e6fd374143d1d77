//! Addresses of names: the system's, or a test's.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

type Given = dyn Fn(&str) -> Vec<IpAddr> + Send + Sync;

/// Where names are looked up.
#[derive(Clone, Default)]
pub struct Names(Source);

#[derive(Clone, Default)]
enum Source {
    #[default]
    System,
    Given(Arc<Given>),
}

impl Names {
    /// The system's, whatever it asks.
    pub fn system() -> Self {
        Self::default()
    }

    /// What `find` says, each time it is asked.
    pub fn from_fn(find: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> Self {
        Self(Source::Given(Arc::new(find)))
    }

    /// The addresses of `host`, in the order of preference (RFC 6724).
    pub(super) async fn find(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let with_port = |address: IpAddr| SocketAddr::new(address, port);
        if let Ok(address) = host.parse() {
            return Ok(vec![with_port(address)]);
        }
        if host == "localhost" || host.ends_with(".localhost") {
            // RFC 6761 6.3; an image without /etc/hosts would ask a name server for it.
            let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            return Ok(loopback.map(with_port).to_vec());
        }
        match &self.0 {
            Source::System => Ok(tokio::net::lookup_host((host, port)).await?.collect()),
            Source::Given(find) => Ok(find(host).into_iter().map(with_port).collect()),
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Names::System",
            Source::Given(_) => "Names::Given",
        })
    }
}
