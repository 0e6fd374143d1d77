//! CONNECT to a host that a route leads to, answered here in its place: a TLS handshake with a certificate of the
//! developer's own authority, but at port 80, and behind it requests that go the way of all others.
//!
//! Whom they mean is settled by the CONNECT; what they ask for is judged as anywhere else. Imports `server`, `tls`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use http::{Method, Response};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, ServerConfig};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::elsewhere::{Lead, Speech};
use super::outcome::{Outcome, ProxyError};
use super::record::Exchange;
use super::relay::Relayed;
use super::tunnel::Connecting;
use super::{Passed, Proxy, Snapshot};
use crate::route::upstream::HostPort;
use crate::server::connection::{self, Timers};
use crate::server::{Arrival, secured};

/// How a request has come in.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    /// By which listener of a route; `None`: a main one.
    pub(super) listener: Option<SocketAddr>,
    /// Behind a CONNECT to this one, if any.
    pub(super) inside: Option<Arc<HostPort>>,
}

impl Proxy {
    /// A way for the bytes behind a CONNECT, or leave to answer them.
    pub(super) async fn connect<'live>(
        &self,
        live: &'live Snapshot,
        client: Option<Connecting>,
        to: HostPort,
    ) -> Result<Passed<'live>, ProxyError> {
        let (policy, known, dialer, places) = &live.elsewhere;
        let lead = policy.connect(&to, known)?;
        let client = client.ok_or(ProxyError::MethodNeverProxied(Method::CONNECT))?;
        let via = match (lead, &live.mint) {
            (Lead::There(via), _) => via,
            (Lead::Here(Speech::Plain), _) => return Ok(Passed::Intercept(client, to, None)),
            (Lead::Here(Speech::Tls), Some(mint)) => {
                let tls = mint.server_config(&to.host, self.clock.wall()).map_err(ProxyError::Certificate)?;
                return Ok(Passed::Intercept(client, to, Some(tls)));
            }
            // There is one wherever that is the policy.
            (Lead::Here(Speech::Tls), None) => return Err(ProxyError::MethodNeverProxied(Method::CONNECT)),
        };
        let permits = live.enter(places)?;
        let upstream =
            dialer.reach(&to, via, (policy.dns_timeout, policy.connect_timeout)).await.map_err(ProxyError::Upstream)?;
        Ok(Passed::Tunnel(client, upstream, permits))
    }

    /// Answers a CONNECT and what comes behind it in the place of `host`, whose certificate is in `tls`; plain HTTP without.
    pub(super) fn intercept(
        self: &Arc<Self>,
        client: Connecting,
        (host, tls): (HostPort, Option<Arc<ServerConfig>>),
        listener: Option<SocketAddr>,
        exchange: Box<Exchange>,
    ) -> Response<Relayed> {
        let proxy = Arc::clone(self);
        client.converse(exchange, move |client, mut exchange, timers, drain| async move {
            let service = |host| {
                let entrance = Entrance { listener, inside: Some(Arc::new(host)) };
                move |arrival| Arc::clone(&proxy).answer_inside(arrival, entrance.clone())
            };
            let Some(tls) = tls else {
                exchange.ended(Outcome::Delivered, None);
                drop(exchange);
                return connection::serve(client, None, timers, drain, service(host)).await;
            };
            let handshake = handshake(tls, client, exchange, &host, timers);
            let stream = tokio::select! {
                stream = handshake => stream,
                () = drain.closed() => return,
            };
            let Some(stream) = stream else { return };
            secured::speak(stream, timers, drain, service(host)).await;
        })
    }

    /// A request inside may not begin another tunnel, but to the compiler it might: so it is boxed.
    fn answer_inside(
        self: Arc<Self>,
        arrival: Arrival,
        entrance: Entrance,
    ) -> Pin<Box<dyn Future<Output = Response<Relayed>> + Send>> {
        Box::pin(self.answer(arrival, entrance))
    }
}

/// Records what became of it: who does not trust our authority is told so in the log, and nowhere else can be.
async fn handshake(
    tls: Arc<ServerConfig>,
    client: TokioIo<Upgraded>,
    mut exchange: Box<Exchange>,
    host: &HostPort,
    timers: Timers,
) -> Option<TlsStream<TokioIo<Upgraded>>> {
    let accepted = timeout(timers.head, TlsAcceptor::from(tls).accept(client)).await;
    let error = match accepted.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
        Ok(stream) => {
            exchange.ended(Outcome::Delivered, None);
            return Some(stream);
        }
        Err(error) => error,
    };
    if is_distrust(&error) {
        tracing::warn!(%host, "a program does not trust ca_cert of [proxy.forward]; `countersign ca trust` says how it would");
    }
    exchange.ended(Outcome::ClientAborted, Some(&error));
    None
}

fn is_distrust(error: &io::Error) -> bool {
    let source = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
    matches!(
        source,
        Some(rustls::Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::CertificateUnknown
        ))
    )
}
