//! `[proxy.forward]`: what programs may ask of their HTTP proxy beyond the routes.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Authority, Context, name, upstream, url};
use crate::clock::Clock;
use crate::config::diagnostic::Span;
use crate::config::raw::{RawConnect, RawForward, RawUpstream};
use crate::config::read::{At, Text};
use crate::egress::Egress;
use crate::egress::bounds::is_name_off_limits;
use crate::proxy::elsewhere::{Connect, Destination, Names, Policy};
use crate::route::{self, Route};
use crate::tls::developer::Standing;
use crate::tls::minting::Mint;
use crate::tls::{Identity, TlsError};

const FORM: &str = "write host and port, as in \"api.example.com:443\" or \"*.amazonaws.com:443\"";
/// An authority that ends so soon is told of: stores that trust it are to be told of the next one by hand.
const ENDS_SOON: Duration = Duration::from_hours(30 * 24);

/// Checks `raw`; how hosts are reached is what `[upstream]` says.
pub(super) fn policy(
    raw: &RawForward,
    upstream: &RawUpstream,
    egress: &Egress,
    routes: &[Route],
    context: &mut Context<'_>,
) -> Policy {
    Policy {
        unmatched: raw.unmatched.value,
        connect: connect(raw, routes, context),
        egress: egress.clone(),
        dns_timeout: upstream.dns_timeout.value,
        connect_timeout: upstream.connect_timeout.value,
        response_timeout: upstream.response_timeout.value,
        body_idle_timeout: upstream.body_idle_timeout.value,
        upload_idle_timeout: upstream.upload_idle_timeout.value,
    }
}

/// A shell where every program has us for its proxy starts us, too; token calls would come back to us without a sign that
/// they are ours.
pub(super) fn refuse_self(egress: &Egress, listens: &[SocketAddr], span: Span, context: &mut Context<'_>) {
    let Some((proxy, _)) = egress.proxy() else { return };
    let is_ours = |address: &SocketAddr| {
        let same_host = proxy.host.parse() == Ok(address.ip()) || proxy.host == "localhost";
        address.port() == proxy.port && address.port() != 0 && same_host
    };
    if listens.iter().any(is_ours) {
        let message = format!("the proxy on the way out, {proxy}, is countersign itself");
        let problem = context.problems.error(span, message);
        problem.help("unset HTTPS_PROXY where countersign is started, or write `proxy = \"none\"` in [upstream]");
    }
}

fn connect(raw: &RawForward, routes: &[Route], context: &mut Context<'_>) -> Connect {
    let RawForward { unmatched: _, connect, connect_hosts: listed, ca_cert, ca_key } = raw;
    let hosts: Vec<_> = listed.value.iter().filter_map(|host| destination(host, context)).collect();
    if connect.value != RawConnect::Intercept {
        for (key, file) in [("ca_cert", ca_cert), ("ca_key", ca_key)] {
            let Some(file) = file else { continue };
            let problem =
                context.problems.warning(file.span, format!("`{key}` does nothing: CONNECT is not intercepted"));
            problem.help("set `connect = \"intercept\"`, or take it out");
        }
    }
    match connect.value {
        RawConnect::Refuse => {
            if !listed.value.is_empty() {
                let problem = context.problems.warning(listed.span, "`connect_hosts` does nothing: CONNECT is refused");
                problem.help("set `connect = \"tunnel\"`, or take it out");
            }
            Connect::Refuse
        }
        RawConnect::Tunnel => {
            if listed.value.is_empty() {
                let message = "`connect` is \"tunnel\", and `connect_hosts` names nowhere that one may lead";
                context.problems.error(connect.span, message).help(FORM);
            }
            Connect::Tunnel(hosts)
        }
        RawConnect::Intercept => match (ca_cert, ca_key) {
            (Some(cert), Some(key)) => {
                let authority = Identity { cert: context.file(&cert.value), key: context.file(&key.value) };
                if context.authority == Authority::Needed {
                    check_authority(&authority, (cert.span, key.span), routes, context);
                }
                Connect::Intercept { authority, tunnel: hosts }
            }
            (None, _) | (_, None) if context.authority == Authority::NotYet => Connect::Refuse,
            (None, _) | (_, None) => {
                let message = "`connect` is \"intercept\", which needs `ca_cert` and `ca_key`";
                context.problems.error(connect.span, message).help("`countersign ca init` makes both files");
                Connect::Refuse
            }
        },
    }
}

/// Notes what is wrong with the files of a developer's authority, or will be.
fn check_authority(authority: &Identity, (cert, key): (Span, Span), routes: &[Route], context: &mut Context<'_>) {
    const AGAIN: &str = "move `ca_cert` and `ca_key` away, and let `countersign ca init` make others";
    let identity = Identity::clone(authority);
    upstream::check_identity(&identity, ("ca_cert", cert), ("ca_key", key), context);
    refuse_open_key(authority, key, context);
    let standing = match Standing::read(&authority.cert) {
        Ok(standing) => standing,
        // What is no PEM file has been noted.
        Err(error @ TlsError::NotAnAuthority(_)) => {
            context.problems.error(cert, format!("`ca_cert` {}", error.reason())).help(AGAIN);
            return;
        }
        Err(_) => return,
    };
    let now = Clock::system().now().wall;
    let date = httpdate::fmt_http_date;
    let Standing { begins, ends, is_authority, .. } = standing;
    let wrong = if !is_authority {
        Some("is not the certificate of an authority".to_owned())
    } else if ends <= now {
        Some(format!("has expired: {}", date(ends)))
    } else if begins > now {
        Some(format!("does not count before {}", date(begins)))
    } else {
        None
    };
    if let Some(wrong) = wrong {
        context.problems.error(cert, format!("`ca_cert` {wrong}")).help(AGAIN);
        return;
    }
    if ends <= now + ENDS_SOON {
        context.problems.warning(cert, format!("`ca_cert` expires soon: {}", date(ends))).help(AGAIN);
    }
    if !standing.is_constrained() {
        let message = "`ca_cert` has no name constraints: whoever has its key can pretend to be any host";
        context.problems.warning(cert, message).help(AGAIN);
    }
    let hosts = route::hosts(routes);
    let uncovered: Vec<String> =
        hosts.iter().filter(|host| !standing.covers(host)).map(|host| format!("\"{host}\"")).collect();
    if !uncovered.is_empty() {
        let message = format!("`ca_cert` cannot vouch for {}: programs will refuse it there", uncovered.join(", "));
        context.problems.warning(cert, message).help(AGAIN);
    }
    // Of a kind of key that rustls takes and that certificates are not signed with here.
    if let Err(error @ TlsError::NotASigner(_)) = Mint::try_new(authority) {
        context.problems.error(key, format!("`ca_key` {}", error.reason())).help(AGAIN);
    }
}

/// Stricter than with other keys: this one is made here, on a machine with other users and their programs.
#[cfg(unix)]
fn refuse_open_key(authority: &Identity, span: Span, context: &mut Context<'_>) {
    use std::os::unix::fs::PermissionsExt;

    let mode = std::fs::metadata(&authority.key).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o077 != 0 {
        let problem = context.problems.error(span, "`ca_key` is open to others than its owner");
        problem.help(format!("chmod 600 {}", authority.key.display()));
    }
}

/// Elsewhere there are no mode bits to look at.
#[cfg(not(unix))]
fn refuse_open_key(_: &Identity, _: Span, _: &mut Context<'_>) {}

fn destination(text: &At<Text>, context: &mut Context<'_>) -> Option<Destination> {
    let mut refuse = |message: String| {
        context.problems.error(text.span, message).help(FORM);
        None
    };
    if text.value.contains('/') {
        return refuse("an entry of `connect_hosts` is a URL, and must be a host and a port".to_owned());
    }
    let (host, port) = match url::split_port(&text.value) {
        Ok((host, Some(port))) => (host, port),
        Ok((_, None)) => return refuse("an entry of `connect_hosts` has no port".to_owned()),
        Err(error) => {
            url::refuse("connect_hosts", text, &error, context);
            return None;
        }
    };
    let (under, host) = host.strip_prefix("*.").map_or((false, host), |host| (true, host));
    let host = match name::parse(host) {
        Ok(host) => host,
        Err(error) => return refuse(format!("a name in `connect_hosts` {error}")),
    };
    if is_name_off_limits(&host) {
        return refuse(
            "an entry of `connect_hosts` is this machine, its link or the metadata of its cloud, where no tunnel leads"
                .to_owned(),
        );
    }
    Some(Destination { names: if under { Names::Under(host) } else { Names::One(host) }, port })
}
