//! Requests for hosts that no route leads to, from programs that take us for their HTTP proxy: refused, passed on without
//! a credential, or, for CONNECT, tunnelled. CONNECT to a host that a route leads to may be answered here in its place.
//!
//! The host is a caller's word here, so it is never this machine, its link or metadata
//! ([`bounds`](crate::egress::bounds)). Imports `route`, `egress`.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, StatusCode, header};

use super::guard::Admitted;
use super::outcome::ProxyError;
use super::pool::{Answered, Form, ProxyFault, UpstreamError};
use super::record::Exchange;
use super::{Delivered, LiveRoute, Passed, Proxy, Snapshot, Through, conceal, rewrite};
use crate::auth::spec::Coverage;
use crate::egress::bounds::is_name_off_limits;
use crate::egress::{Egress, ProxyUrl};
use crate::message::body::DEFAULT_REPLAY_BUFFER;
use crate::route::upstream::{Answers, HostPort};
use crate::route::{Cookies, HeaderEdits, IdempotencyKeys, Origin, Route, Upstream};
use crate::tls::{ClientSettings, Identity};

/// What `unmatched` requests are called where a route would be named.
const NAME: &str = "unmatched";
/// Where plain HTTP is spoken, also behind a CONNECT.
const HTTP: u16 = 80;
/// So many hosts are named to a caller who asked for another.
const MOST_NAMED: usize = 20;

/// What is done with such requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// With those in plain HTTP.
    pub unmatched: Unmatched,
    /// With CONNECT.
    pub connect: Connect,
    /// The proxy on the way, if any.
    pub egress: Egress,
    /// Name lookup.
    pub dns_timeout: Duration,
    /// TCP; a proxy's answer to CONNECT, once more.
    pub connect_timeout: Duration,
    /// Until the response head.
    pub response_timeout: Duration,
    /// Between two pieces of an answer's body.
    pub body_idle_timeout: Duration,
    /// Between two pieces of a request's body.
    pub upload_idle_timeout: Duration,
}

/// What is done with a request in plain HTTP for a host that no route leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    /// It is refused.
    #[default]
    Refuse,
    /// It goes on as it is, without a credential.
    Pass,
}

/// What is done with CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connect {
    /// It is refused.
    Refuse,
    /// Bytes are carried to these, unseen and without a credential.
    Tunnel(Vec<Destination>),
    /// Hosts that routes lead to are answered for here.
    Intercept {
        /// Who vouches for us there.
        authority: Identity,
        /// Where bytes are carried for all the rest.
        tunnel: Vec<Destination>,
    },
}

/// What is spoken behind a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    /// HTTP as it is.
    Plain,
    /// HTTP behind a handshake.
    Tls,
}

/// Where a CONNECT leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead<'p> {
    /// To us, in the host's place.
    Here(Speech),
    /// There, through the proxy on the way, if any.
    There(Option<&'p ProxyUrl>),
}

/// Where a tunnel may lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Which hosts.
    pub names: Names,
    /// At which port.
    pub port: u16,
}

/// One host or many; lower case, no brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// This one.
    One(String),
    /// All names under this one, at any depth, and not itself: `*.example.com`.
    Under(String),
}

impl Destination {
    fn covers(&self, to: &HostPort) -> bool {
        let names = match &self.names {
            Names::One(name) => to.host == *name,
            Names::Under(name) => {
                to.host.strip_suffix(name.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
        };
        names && self.port == to.port
    }
}

/// A request's way to a host that no route leads to.
#[derive(Debug)]
pub(super) struct Way {
    /// In the place of a route: nothing is added, nothing rewritten.
    pub(super) route: Route,
    /// How it is asked.
    pub(super) form: Form,
    /// The proxy on it.
    pub(super) via: Option<ProxyUrl>,
}

impl Policy {
    /// The way of a request in plain HTTP; `known` are the hosts that have routes.
    pub(super) fn lead(&self, to: &HostPort, known: &Known) -> Result<Way, ProxyError> {
        if self.unmatched == Unmatched::Refuse {
            return Err(known.refuse(&to.host));
        }
        let off_limits = || ProxyError::Upstream(UpstreamError::OffLimits { dial: to.clone() });
        if is_name_off_limits(&to.host) {
            return Err(off_limits());
        }
        let written = to.to_string();
        let authority = if to.port == 80 { written.trim_end_matches(":80") } else { &written };
        let authority: Authority = authority.parse().map_err(|_no_host_of_a_url| off_limits())?;
        let via = self.egress.to(&to.host, to.port).cloned();
        let (dial, form) = match &via {
            None => (to.clone(), Form::Http1),
            Some(proxy) => (HostPort { host: proxy.host.clone(), port: proxy.port }, Form::Absolute),
        };
        let origin = Origin {
            scheme: Scheme::HTTP,
            authority,
            dial,
            // A proxy is asked for the answer here, not for a tunnel: many lead to port 443 alone.
            via: None,
            server_name: to.host.clone(),
            tls: ClientSettings::default(),
            dns_timeout: self.dns_timeout,
            connect_timeout: self.connect_timeout,
            tls_timeout: self.connect_timeout,
            // Its connections are used once, and speak HTTP/1.
            ping_interval: self.connect_timeout,
            ping_timeout: self.connect_timeout,
            pool_idle_timeout: self.connect_timeout,
            max_connection_age: self.connect_timeout,
            answers: Answers::default(),
        };
        Ok(Way { route: self.route(origin), form, via })
    }

    fn route(&self, origin: Origin) -> Route {
        Route {
            name: NAME.into(),
            listen: None,
            host: None,
            path: "/".to_owned(),
            methods: None,
            upstream: Upstream { origin: origin.into(), base_path: String::new() },
            strip_path: false,
            scheme: None,
            request_headers: HeaderEdits::default(),
            allow_encoded_slash: true,
            websocket: false,
            rewrite_location: false,
            cookies: Cookies::Pass,
            max_in_flight: None,
            max_body: 0,
            replay_buffer: DEFAULT_REPLAY_BUFFER,
            response_timeout: self.response_timeout,
            body_idle_timeout: self.body_idle_timeout,
            upload_idle_timeout: self.upload_idle_timeout,
            // It has none.
            credential_timeout: Duration::ZERO,
            idempotency_keys: IdempotencyKeys::Ignored,
        }
    }

    /// Where a CONNECT to `to` leads, if it may.
    pub(super) fn connect(&self, to: &HostPort, known: &Known) -> Result<Lead<'_>, ProxyError> {
        let listed = match &self.connect {
            // Node's undici and `curl -p` ask like this for http:// URLs: nothing is hidden, so nothing is forbidden.
            _ if to.port == HTTP && known.has(to) => return Ok(Lead::Here(Speech::Plain)),
            Connect::Refuse => return Err(ProxyError::MethodNeverProxied(Method::CONNECT)),
            Connect::Intercept { .. } if known.has(to) => return Ok(Lead::Here(Speech::Tls)),
            Connect::Tunnel(hosts) | Connect::Intercept { tunnel: hosts, .. } => hosts,
        };
        if listed.iter().any(|host| host.covers(to)) {
            return Ok(Lead::There(self.egress.to(&to.host, to.port)));
        }
        Err(ProxyError::TunnelNotListed { to: to.clone(), known: known.clone() })
    }
}

/// The hosts that have routes, and how they are told to a caller who asked for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    hosts: Arc<HashSet<String>>,
    told: Arc<str>,
}

impl Known {
    /// Of routes with a `host`, and of routes by URL.
    pub(super) fn of<'r>(routes: impl IntoIterator<Item = &'r Route>) -> Self {
        let (mut urls, mut hosts) = (Vec::new(), HashSet::new());
        for route in routes {
            let Some(host) = &route.host else { continue };
            hosts.insert(host.clone());
            let url = format!("http://{host}{}", if route.path == "/" { "" } else { &route.path });
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        let more = urls.len().saturating_sub(MOST_NAMED);
        urls.truncate(MOST_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Self { hosts: hosts.into(), told: format!("{}{more}", urls.join(", ")).into() }
    }

    /// Whether a route leads to what a CONNECT names.
    fn has(&self, to: &HostPort) -> bool {
        self.hosts.contains(&to.url_host())
    }

    /// Tells a caller who asked for `host`.
    pub(super) fn refuse(&self, host: &str) -> ProxyError {
        ProxyError::Unmatched { host: host.to_owned(), known: self.clone() }
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.told.is_empty() { "no host" } else { &self.told })
    }
}

impl Proxy {
    /// Passes a request on to a host that no route leads to, without a credential.
    pub(super) async fn pass_elsewhere<'live>(
        &self,
        live: &'live Snapshot,
        admitted: Box<Admitted>,
        to: HostPort,
        exchange: &mut Exchange,
    ) -> Result<Passed<'live>, ProxyError> {
        let (policy, known, dialer, places) = &live.elsewhere;
        let Way { route, form, via } = policy.lead(&to, known)?;
        let connections = dialer.connections(Origin::clone(&route.upstream.origin), form);
        let to = LiveRoute {
            route,
            scheme: None,
            fields: Vec::new(),
            connections,
            websockets: None,
            in_flight: places.clone(),
        };
        let permits = live.enter(places)?;
        let request_id = exchange.request_id().clone();
        let mut outbound = rewrite::toward(admitted, &to.route, Coverage::Nothing, &self.budget, request_id).await?;
        if let Some(onward) = exchange.onward() {
            outbound.lead_on(onward, &to.route.request_headers);
        }
        if let Some(authorization) = via.as_ref().and_then(ProxyUrl::authorization)
            && let Ok(mut value) = HeaderValue::from_str(authorization.expose())
        {
            value.set_sensitive(true);
            outbound.set(header::PROXY_AUTHORIZATION, value);
        }
        exchange.uploading(outbound.upload());
        let Delivered { answered, secrets, case: _ } = self.deliver(outbound, &to, exchange).await?;
        let Answered::Response(response) = answered else { return Err(ProxyError::Upstream(UpstreamError::Switched)) };
        if let (Some(proxy), StatusCode::PROXY_AUTHENTICATION_REQUIRED) = (via, response.status()) {
            // To the caller we are the proxy, and it would show its credentials to us.
            let dial = to.route.upstream.origin.dial.clone();
            let source = ProxyFault::Credentials(407);
            return Err(ProxyError::Upstream(UpstreamError::Proxy { proxy, dial, source }));
        }
        let passage = conceal::refusal(response, &secrets, to.route.body_idle_timeout).await;
        Ok(Passed::Response(passage.map_err(ProxyError::Upstream)?, permits, Through::Elsewhere(Box::new(to.route))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(host: &str, port: u16) -> HostPort {
        HostPort { host: host.to_owned(), port }
    }

    #[test]
    fn tunnels_lead_to_listed_names_and_ports_alone() {
        let one = Destination { names: Names::One("api.example".to_owned()), port: 443 };
        let under = Destination { names: Names::Under("amazonaws.com".to_owned()), port: 443 };
        assert!(one.covers(&to("api.example", 443)));
        for other in [to("api.example", 80), to("a.api.example", 443), to("xapi.example", 443)] {
            assert!(!one.covers(&other), "{other}");
        }
        for host in ["a.amazonaws.com", "a.b.amazonaws.com"] {
            assert!(under.covers(&to(host, 443)), "{host}");
        }
        for host in ["amazonaws.com", ".amazonaws.com", "evilamazonaws.com", "a.amazonaws.com.evil.test"] {
            assert!(!under.covers(&to(host, 443)), "{host}");
        }
    }
}
