//! Addresses: who may reach them, and that each is bound once.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use super::{Context, caller, size, upstream};
use crate::admin;
use crate::config::diagnostic::Span;
use crate::config::raw::{RawAdmin, RawListen, RawProxy, RawRouteEntry, RawTls};
use crate::config::read::{At, Text};
use crate::server::Reach;
use crate::server::gate::head::Limits;
use crate::server::listener::SHORTEST_PAUSE;
#[cfg(unix)]
use crate::server::unix::Access;
use crate::tls::Identity;

/// Where requests are listened for.
pub(super) struct Listens {
    pub(super) tcp: Vec<SocketAddr>,
    pub(super) sockets: Vec<PathBuf>,
    #[cfg(unix)]
    pub(super) socket_access: Access,
    pub(super) tls: Option<Identity>,
    pub(super) reach: Reach,
}

/// What request heads may be.
pub(super) fn heads(proxy: &RawProxy, context: &mut Context<'_>) -> Limits {
    let bytes = size::within("max_head", &proxy.max_head, 1..=1024, context);
    let fields = size::number("max_fields", &proxy.max_fields, 10..=1_000, context);
    let target = size::within("max_target", &proxy.max_target, 1..=1024, context);
    if proxy.max_target.value > proxy.max_head.value {
        let span = if proxy.max_target.span.is_written() { proxy.max_target.span } else { proxy.max_head.span };
        let problem = context.problems.error(span, "`max_target` is more than `max_head`, of which it is a part");
        problem.help("raise `max_head` or lower `max_target`");
    }
    Limits { bytes, fields, target }
}

/// How many threads serve connections, if the file says.
pub(super) fn workers(proxy: &RawProxy, context: &mut Context<'_>) -> Option<NonZero<usize>> {
    let workers = proxy.workers.as_ref()?;
    NonZero::new(size::number("workers", workers, 1..=64, context))
}

/// The longest pause after a connection could not be accepted.
pub(super) fn accept_pause(proxy: &RawProxy, context: &mut Context<'_>) -> Duration {
    size::time("accept_pause", &proxy.accept_pause, SHORTEST_PAUSE..=Duration::from_mins(1), context)
}

/// Checks all addresses of the file against each other and against `expose`.
pub(super) fn check(
    proxy: &RawProxy,
    admin: RawAdmin,
    routes: &[At<RawRouteEntry>],
    context: &mut Context<'_>,
) -> (Listens, admin::Settings) {
    let expose = proxy.expose.value;
    let guarded = proxy.caller_token.is_some() || proxy.tls.is_some();
    let proxy_guard = if guarded { Guarded::Somehow } else { Guarded::Not };
    let mut bound = Bound::default();
    if proxy.listen.value.is_empty() && proxy.listen.span.is_written() {
        let problem = context.problems.error(proxy.listen.span, "`listen` is empty, so nobody could reach the proxy");
        problem.help("leave it out to listen on 127.0.0.1:8080 and [::1]:8080");
    }
    let (mut tcp, mut sockets) = (Vec::new(), Vec::new());
    for At { value, span } in &proxy.listen.value {
        match value {
            RawListen::Tcp(value) => {
                let address = At { value: *value, span: *span };
                refuse_exposed(&address, expose, "the proxy", proxy_guard, context);
                bound.add(&address, "[proxy] listen", context);
                tcp.push(address.value);
            }
            RawListen::Unix(name) => sockets.extend(socket(name, *span, &sockets, context)),
        }
    }
    let RawAdmin { listen, health_listen, quit_token, max_connections } = admin;
    let quit_token = quit_token.as_ref().and_then(|token| caller::token("quit_token", token, context));
    refuse_exposed(&listen, expose, "the admin port", Guarded::Not, context);
    bound.add(&listen, "[admin] listen", context);
    if let Some(address) = &health_listen {
        bound.add(address, "[admin] health_listen", context);
    }
    let mut own: Vec<SocketAddr> = Vec::new();
    for address in routes.iter().filter_map(|route| route.value.route.listen.as_ref()) {
        refuse_exposed(address, expose, "this route", proxy_guard, context);
        // Routes may share a listener of their own, and tell each other apart by host and path.
        if !own.contains(&address.value) || address.value.port() == 0 {
            bound.add(address, "a route's listen", context);
            own.push(address.value);
        }
    }
    let listens = Listens {
        tcp,
        #[cfg(unix)]
        socket_access: access(proxy, sockets.is_empty(), context),
        sockets,
        tls: proxy.tls.as_ref().and_then(|tls| identity(tls, context)),
        reach: if expose { Reach::Network } else { Reach::Machine },
    };
    let health_listen = health_listen.map(|address| address.value);
    // The status page keeps eight for itself (`admin::board`); more than the most would be a load that nobody has.
    let max_connections = size::number("max_connections", &max_connections, 16..=1_024, context);
    (listens, admin::Settings { listen: listen.value, health_listen, quit_token, max_connections })
}

/// Whether anything keeps strangers out, or off the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Guarded {
    Somehow,
    Not,
}

fn refuse_exposed(address: &At<SocketAddr>, expose: bool, what: &str, guarded: Guarded, context: &mut Context<'_>) {
    let At { value, span } = address;
    if value.ip().to_canonical().is_loopback() {
        return;
    }
    if expose {
        if guarded == Guarded::Not {
            let message = format!("{what} can be reached from other machines on {value}");
            let problem = context.problems.warning(*span, message);
            problem.help(match what {
                "the admin port" => "it shows metrics and the names of credentials to whoever reaches it",
                _ => "whoever reaches it uses the configured credentials; set `caller_token` or `tls` in [proxy]",
            });
        }
        return;
    }
    let problem = context.problems.error(*span, format!("{value} is not loopback: other machines could reach {what}"));
    problem.help(match what {
        "the admin port" => "use 127.0.0.1 or [::1]; `health_listen` gives a kubelet the probes alone",
        _ => "use 127.0.0.1 or [::1], or set `expose = true` in [proxy] if callers are kept out by other means",
    });
}

#[cfg(unix)]
fn socket(name: &Text, span: Span, others: &[PathBuf], context: &mut Context<'_>) -> Option<PathBuf> {
    let path = context.file(name);
    if others.contains(&path) {
        context.problems.error(span, "this socket stands twice in [proxy] listen").help("take one out");
        return None;
    }
    if path.as_os_str().len() > LONGEST_SOCKET {
        let message = format!("the path of this socket is longer than {LONGEST_SOCKET} bytes");
        context.problems.error(span, message).help("the operating system takes no longer ones");
        return None;
    }
    Some(path)
}

#[cfg(not(unix))]
fn socket(_: &Text, span: Span, _: &[PathBuf], context: &mut Context<'_>) -> Option<PathBuf> {
    context.problems.error(span, "there are no Unix sockets here").help("use 127.0.0.1 or [::1]");
    None
}

/// `sun_path` has 108 bytes on Linux and 104 elsewhere, one of them for the end (unix(7)).
#[cfg(unix)]
const LONGEST_SOCKET: usize = 103;

/// Who may use the sockets.
#[cfg(unix)]
fn access(proxy: &RawProxy, unused: bool, context: &mut Context<'_>) -> Access {
    if let Some(users) = &proxy.socket_users
        && unused
    {
        let problem = context.problems.warning(users.span, "`socket_users` does nothing: `listen` has no Unix socket");
        problem.help("add \"unix:/run/countersign/proxy.sock\" to `listen`, or take it out");
    }
    let At { value: text, span } = &proxy.socket_mode;
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && text.starts_with('0'));
    if mode.is_none() {
        let problem = context.problems.error(*span, format!("{text} is not a value of `socket_mode`"));
        problem.help("write permission bits as chmod takes them, as in \"0600\" or \"0660\"");
    }
    let users = proxy.socket_users.as_ref().map(|users| users.value.iter().map(|id| id.value.0).collect());
    if let Some(At { value, span }) = &proxy.socket_users
        && value.is_empty()
    {
        context.problems.error(*span, "`socket_users` is empty, so nobody could use the socket");
    }
    Access { mode: mode.unwrap_or(0o600), users }
}

fn identity(tls: &At<RawTls>, context: &mut Context<'_>) -> Option<Identity> {
    let RawTls { cert, key } = &tls.value;
    let (Some(cert), Some(key)) = (cert, key) else { return None };
    let identity = Identity { cert: context.file(&cert.value), key: context.file(&key.value) };
    upstream::check_identity(&identity, ("tls.cert", cert.span), ("tls.key", key.span), context);
    Some(identity)
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
