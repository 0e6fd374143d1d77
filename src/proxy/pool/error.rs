//! Why an upstream gave no answer, and what is known of the request then. Imports `message`, `route`, `egress`.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use http::Request;

use super::tunnel::ProxyFault;
use crate::egress::ProxyUrl;
use crate::message::body::{BrokenOff, OutboundBody};
use crate::message::framing::FramingError;
use crate::route::upstream::HostPort;

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The name has no address.
    #[error("looking up \"{host}\"")]
    Resolve {
        /// What was looked up.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No name server answered in time.
    #[error("the name \"{host}\" was not found within {limit:?} (dns_timeout)")]
    ResolveTimeout {
        /// What was looked up.
        host: String,
        /// The limit.
        limit: Duration,
    },
    /// None of its addresses took a connection.
    #[error("connecting to {dial}")]
    Connect {
        /// What was dialled.
        dial: HostPort,
        /// Why the last address failed.
        #[source]
        source: io::Error,
    },
    /// None of its addresses took a connection in time.
    #[error("{dial} took no connection within {limit:?} (connect_timeout)")]
    ConnectTimeout {
        /// What was dialled.
        dial: HostPort,
        /// The limit.
        limit: Duration,
    },
    /// A caller has named it, and it is this machine, its link or the metadata of its cloud.
    #[error("\"{dial}\" leads to this machine, its link or the metadata of its cloud, where no caller is led")]
    OffLimits {
        /// What was asked for.
        dial: HostPort,
    },
    /// The proxy on the way did not lead there.
    #[error("reaching {dial} through the proxy {proxy}")]
    Proxy {
        /// The proxy.
        proxy: ProxyUrl,
        /// What was asked for.
        dial: HostPort,
        /// Why.
        #[source]
        source: ProxyFault,
    },
    /// The handshake failed: certificate, name, versions.
    #[error("TLS with {dial} as \"{server_name}\"")]
    Tls {
        /// What was dialled.
        dial: HostPort,
        /// The name that the certificate must carry.
        server_name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The handshake took too long.
    #[error("the TLS handshake with {dial} was not over within {limit:?} (tls_timeout)")]
    TlsTimeout {
        /// What was dialled.
        dial: HostPort,
        /// The limit.
        limit: Duration,
    },
    /// A refusal's body, which had to be looked through, was not there in time.
    #[error("the body of a refusal was not there within {0:?} (body_idle_timeout)")]
    BodyTimeout(Duration),
    /// No response head in time.
    #[error("no response head came within {0:?} (response_timeout)")]
    ResponseTimeout(Duration),
    /// It answered 101 to a request that asked for no other protocol, or not as RFC 6455 wants it.
    #[error("the upstream switched protocols, which nobody asked for")]
    Switched,
    /// What came is no answer, or not one that can be passed on.
    #[error("reading the upstream's answer")]
    Framing(#[source] FramingError),
    /// The exchange broke.
    #[error("exchanging HTTP")]
    Http(#[source] ExchangeError),
}

/// Why an exchange broke.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The upstream's bytes are no answer.
    #[error("reading the upstream's answer")]
    Framing(#[from] FramingError),
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[source] io::Error),
    /// It has ended before the answer had.
    #[error("the upstream closed the connection before its answer was whole")]
    Closed,
    /// Bytes came before there was anything to answer.
    #[error("the upstream sent bytes before it was asked")]
    Unasked,
    /// Our request's body ended early.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

/// How a send failed, and whether the request may be sent again.
#[derive(Debug)]
pub struct Undelivered {
    /// Why.
    pub error: UpstreamError,
    /// What is known of the request.
    pub sent: Sent,
}

/// What is known of a request that was not answered.
#[derive(Debug)]
pub enum Sent {
    /// No byte of it: here it is.
    Nothing(Box<Request<OutboundBody>>),
    /// Perhaps all of it, and the upstream has said that it did not look at it.
    Unprocessed,
    /// Perhaps all of it, on a connection that had been used before and gave no byte in answer: it may have closed
    /// before the request arrived, or the upstream may have acted on it.
    OnReusedConnection,
    /// Perhaps all of it.
    Something,
}

impl From<ExchangeError> for UpstreamError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Framing(error) => Self::Framing(error),
            error @ (ExchangeError::Io(_)
            | ExchangeError::Closed
            | ExchangeError::Unasked
            | ExchangeError::BrokenOff(_)
            | ExchangeError::Http2(_)) => Self::Http(error),
        }
    }
}

/// Over HTTP/2: an exchange that broke, or that we broke off.
impl From<hyper::Error> for UpstreamError {
    fn from(error: hyper::Error) -> Self {
        let ours = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        match ours.and_then(io::Error::get_ref).and_then(|ours| ours.downcast_ref()) {
            Some(ours) => Self::Framing(*ours),
            None => Self::Http(error.into()),
        }
    }
}

impl Undelivered {
    /// An answer came, and cannot be used.
    pub(super) fn framing(error: FramingError) -> Self {
        Self { error: UpstreamError::Framing(error), sent: Sent::Something }
    }
}
