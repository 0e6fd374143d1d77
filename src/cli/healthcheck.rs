//! `countersign healthcheck`: one GET to the admin port, with the standard library alone, so that it costs a probe little.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Below the 5 s that ECS gives a health check.
const LIMIT: Duration = Duration::from_secs(4);

/// Why the answer is no.
#[derive(Debug, thiserror::Error)]
pub(super) enum HealthError {
    #[error("no answer from {address}{path}")]
    NoAnswer {
        address: SocketAddr,
        path: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Unhealthy(String),
}

/// Asks `address` for `path`; returns the page.
pub(super) fn ask(address: SocketAddr, path: &'static str) -> Result<String, HealthError> {
    let answer = get(address, path).map_err(|source| HealthError::NoAnswer { address, path, source })?;
    let (head, page) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let page = page.to_owned();
    if head.starts_with("HTTP/1.1 200 ") { Ok(page) } else { Err(HealthError::Unhealthy(page.trim_end().to_owned())) }
}

fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
