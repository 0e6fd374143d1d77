//! Addresses: who may reach them, and that each is bound once.

use std::net::SocketAddr;

use super::Context;
use crate::admin;
use crate::config::diagnostic::Span;
use crate::config::raw::{RawAdmin, RawProxy, RawRouteEntry};
use crate::config::read::At;

/// Checks all addresses of the file against each other and against `expose`.
pub(super) fn check(
    proxy: &RawProxy,
    admin: RawAdmin,
    routes: &[At<RawRouteEntry>],
    context: &mut Context<'_>,
) -> admin::Settings {
    let expose = proxy.expose.value;
    let mut bound = Bound::default();
    if proxy.listen.value.is_empty() && proxy.listen.span.is_written() {
        let problem = context.problems.error(proxy.listen.span, "`listen` is empty, so nobody could reach the proxy");
        problem.help("leave it out to listen on 127.0.0.1:8080 and [::1]:8080");
    }
    for address in &proxy.listen.value {
        refuse_exposed(address, expose, "the proxy", context);
        bound.add(address, "[proxy] listen", context);
    }
    let RawAdmin { listen, health_listen } = admin;
    refuse_exposed(&listen, expose, "the admin port", context);
    bound.add(&listen, "[admin] listen", context);
    if let Some(address) = &health_listen {
        bound.add(address, "[admin] health_listen", context);
    }
    let mut own: Vec<SocketAddr> = Vec::new();
    for address in routes.iter().filter_map(|route| route.value.route.listen.as_ref()) {
        refuse_exposed(address, expose, "this route", context);
        // Routes may share a listener of their own, and tell each other apart by host and path.
        if !own.contains(&address.value) || address.value.port() == 0 {
            bound.add(address, "a route's listen", context);
            own.push(address.value);
        }
    }
    admin::Settings { listen: listen.value, health_listen: health_listen.map(|address| address.value) }
}

fn refuse_exposed(address: &At<SocketAddr>, expose: bool, what: &str, context: &mut Context<'_>) {
    let At { value, span } = address;
    if value.ip().to_canonical().is_loopback() {
        return;
    }
    if expose {
        let message = format!("{what} can be reached from other machines on {value}");
        context.problems.warning(*span, message).help("whoever reaches it uses the configured credentials");
        return;
    }
    let problem = context.problems.error(*span, format!("{value} is not loopback: other machines could reach {what}"));
    problem.help(match what {
        "the admin port" => "use 127.0.0.1 or [::1]; `health_listen` gives a kubelet the probes alone",
        _ => "use 127.0.0.1 or [::1], or set `expose = true` in [proxy] if callers are kept out by other means",
    });
}

#[derive(Default)]
struct Bound(Vec<(SocketAddr, Span, &'static str)>);

impl Bound {
    fn add(&mut self, address: &At<SocketAddr>, home: &'static str, context: &mut Context<'_>) {
        let At { value, span } = *address;
        if let Some((other, other_span, other_home)) = self.0.iter().find(|(other, ..)| collide(*other, value)) {
            // A default has no place of its own to point at.
            let (span, home, other_home) =
                if span.is_written() { (span, home, *other_home) } else { (*other_span, *other_home, home) };
            let message = if *other == value && home == other_home {
                format!("{value} stands twice in {home}")
            } else if *other == value {
                format!("{value} is bound twice: by {home} and by {other_home}")
            } else {
                format!("{value} and {other} cannot both be bound: one includes the other")
            };
            let problem = context.problems.error(span, message);
            if home == "a route's listen" && other_home == "[proxy] listen" {
                problem.help("a route without `listen` is served on the [proxy] addresses");
            } else {
                problem.help("give each its own port");
            }
        }
        self.0.push((value, span, home));
    }
}

/// Port 0 asks for any free port, so two of them never meet.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip() || same_family && (a.ip().is_unspecified() || b.ip().is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_overlap_collide() {
        for (a, b, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "127.0.0.1:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(collide(a.parse().unwrap(), b.parse().unwrap()), expected, "{a} {b}");
        }
    }
}
