//! Through an HTTP proxy: CONNECT (RFC 9110 9.3.6), and what the proxy says to it.
//!
//! Whatever the proxy answers, nothing of a request has been sent: only the destination's name. Imports `egress`, `route`.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::egress::ProxyUrl;
use crate::route::upstream::HostPort;

/// A proxy's answer to CONNECT may be this large; some send a page.
const LARGEST_HEAD: usize = 16 * 1024;

/// Why a proxy did not lead to the destination.
#[derive(Debug, thiserror::Error)]
pub enum ProxyFault {
    /// No connection to the proxy itself.
    #[error("connecting to it")]
    Connect(#[source] io::Error),
    /// It did not answer CONNECT in time.
    #[error("it did not answer CONNECT within {0:?} (connect_timeout)")]
    Silent(Duration),
    /// It closed the connection instead.
    #[error("it closed the connection instead of answering CONNECT")]
    Closed(#[source] io::Error),
    /// It wants to know who asks.
    #[error(
        "it answered {0}: it wants credentials, or others; write them into its URL, http://USER:PASSWORD@HOST:PORT"
    )]
    Credentials(u16),
    /// It does not lead there.
    #[error("it answered {0} to CONNECT; does it allow this destination?")]
    Refused(u16),
    /// Not an answer in HTTP/1.
    #[error("it does not speak HTTP; is this the address of an HTTP proxy?")]
    NotHttp,
}

/// Asks for a way to `dial` on a connection to `proxy`.
pub(super) async fn open(
    stream: &mut TcpStream,
    proxy: &ProxyUrl,
    dial: &HostPort,
    limit: Duration,
) -> Result<(), ProxyFault> {
    timeout(limit, ask(stream, proxy, dial)).await.unwrap_or(Err(ProxyFault::Silent(limit)))
}

async fn ask(stream: &mut TcpStream, proxy: &ProxyUrl, dial: &HostPort) -> Result<(), ProxyFault> {
    // `Via`, because the proxy of the environment may be this very program: then it is a loop, and said to be one.
    let mut head = zeroize::Zeroizing::new(format!(
        "CONNECT {dial} HTTP/1.1\r\nhost: {dial}\r\nuser-agent: countersign/{}\r\nvia: 1.1 countersign\r\n",
        env!("CARGO_PKG_VERSION")
    ));
    if let Some(authorization) = proxy.authorization() {
        head.push_str("proxy-authorization: ");
        head.push_str(authorization.expose());
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.map_err(ProxyFault::Closed)?;
    let mut answer = Vec::new();
    loop {
        // One byte at a time would be exact; but what comes behind the head of a 2xx can only be the destination's, and
        // a TLS server speaks second.
        let read = stream.read_buf(&mut answer).await.map_err(ProxyFault::Closed)?;
        if read == 0 {
            return Err(ProxyFault::Closed(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            return judge(&answer, end + 4);
        }
        if answer.len() > LARGEST_HEAD || !b"HTTP/1.".starts_with(answer.get(..7).unwrap_or(&answer)) {
            return Err(ProxyFault::NotHttp);
        }
    }
}

fn judge(answer: &[u8], head: usize) -> Result<(), ProxyFault> {
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(1..5));
    let status = status.and_then(|status| std::str::from_utf8(status).ok()?.strip_prefix(' ')?.parse().ok());
    match status {
        Some(200..=299) if answer.len() == head => Ok(()),
        // tinyproxy says 401 to wrong credentials.
        Some(status @ (401 | 407)) => Err(ProxyFault::Credentials(status)),
        Some(status @ 300..=599) => Err(ProxyFault::Refused(status)),
        _ => Err(ProxyFault::NotHttp),
    }
}
