//! Where a route's requests go: the origin that is dialled, and the path in front of theirs.
//!
//! An [`Origin`] is everything that decides whether two requests may share a connection, so it is the key of the pool.
//! Nothing here dials. Imports `message`, `egress`, `tls`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, Scheme};

use crate::egress::ProxyUrl;
pub use crate::egress::is_loopback;
pub use crate::message::response::Answers;
use crate::tls::ClientSettings;

/// An upstream URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// What is dialled. Shared, so that a request holds on to it for little.
    pub origin: Arc<Origin>,
    /// Put before the request's path: empty, or `/prod` or `/a/b`, never with a slash at the end.
    pub base_path: String,
}

/// All that decides whether two requests may share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `https`, or `http` for loopback.
    pub scheme: Scheme,
    /// The name that is signed and sent as Host, without the scheme's default port.
    pub authority: Authority,
    /// Where the connection goes: `connect_to`, or the authority.
    pub dial: HostPort,
    /// The proxy on the way there, if any.
    pub via: Option<ProxyUrl>,
    /// The name that the certificate must carry; lower case, no brackets.
    pub server_name: String,
    /// Roots, client certificate, HTTP/2.
    pub tls: ClientSettings,
    /// Name lookup.
    pub dns_timeout: Duration,
    /// TCP.
    pub connect_timeout: Duration,
    /// TLS handshake.
    pub tls_timeout: Duration,
    /// Between two pings on an HTTP/2 connection in use.
    pub ping_interval: Duration,
    /// How long the answer to one may take; without it the connection is over.
    pub ping_timeout: Duration,
    /// How long an unused connection is kept.
    pub pool_idle_timeout: Duration,
    /// How long a connection is used for new requests.
    pub max_connection_age: Duration,
    /// What its answers may be.
    pub answers: Answers,
}

impl Origin {
    /// How URLs call it, by [`url_host`].
    pub fn url_host(&self) -> String {
        url_host(self.authority.host(), self.authority.port_u16())
    }
}

/// Host and port of a URL, as far as they are compared: lower case, without the default port of either scheme, because
/// `http://` stands for the `https://` that a caller leaves to us.
pub fn url_host(host: &str, port: Option<u16>) -> String {
    let host = host.to_ascii_lowercase();
    match port {
        None | Some(80 | 443) => host,
        Some(port) => format!("{host}:{port}"),
    }
}

/// A name or address to dial, and its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name, or address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl HostPort {
    /// How URLs call it, by [`url_host`].
    pub fn url_host(&self) -> String {
        let Self { host, port } = self;
        if host.contains(':') { url_host(&format!("[{host}]"), Some(*port)) } else { url_host(host, Some(*port)) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The region in an execute-api host name, in every partition and with every private-endpoint form (docs/aws.md A8):
/// `abc.execute-api.eu-west-1.amazonaws.com`, `abc-vpce-1.execute-api…`, `vpce-1.execute-api.eu-west-1.vpce.amazonaws.com`.
pub fn region_of(host: &str) -> Option<&str> {
    let rest = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"))
        .or_else(|| host.strip_suffix(".api.aws"))?;
    let rest = rest.strip_suffix(".vpce").unwrap_or(rest);
    let (before, region) = rest.rsplit_once('.')?;
    let service = before.rsplit_once('.').map_or(before, |(_, service)| service);
    let looks_right = matches!(service, "execute-api" | "execute-api-fips")
        && before.contains('.')
        && region.contains('-')
        && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    looks_right.then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_from_execute_api_hosts_of_every_partition() {
        for (host, region) in [
            ("abc123.execute-api.ap-northeast-1.amazonaws.com", Some("ap-northeast-1")),
            ("abc123.execute-api.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("abc123.execute-api.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("abc123.execute-api-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("abc123-vpce-0a1.execute-api.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("vpce-0a1-x.execute-api.eu-west-1.vpce.amazonaws.com", Some("eu-west-1")),
            ("abc123.execute-api.eu-west-1.api.aws", Some("eu-west-1")),
            ("execute-api.eu-west-1.amazonaws.com", None),
            ("api.example.com", None),
            ("abc123.execute-api.eu-west-1.amazonaws.com.evil.example", None),
            ("abc123.lambda-url.eu-west-1.on.aws", None),
            ("amazonaws.com", None),
        ] {
            assert_eq!(region_of(host), region, "{host}");
        }
    }

    #[test]
    fn only_names_that_cannot_leave_the_machine_are_loopback() {
        for host in ["localhost", "LOCALHOST", "api.localhost", "127.0.0.1", "127.9.9.9", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "evil-localhost", "10.0.0.1", "0.0.0.0", "::", "example.com", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
