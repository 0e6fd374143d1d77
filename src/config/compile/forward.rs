//! `[proxy.forward]`: what programs may ask of their HTTP proxy beyond the routes.

use super::{Context, name, url};
use crate::config::raw::{RawConnect, RawForward, RawUpstream};
use crate::config::read::{At, Text};
use crate::egress::Egress;
use crate::egress::bounds::is_name_off_limits;
use crate::proxy::elsewhere::{Connect, Destination, Names, Policy};

const FORM: &str = "write host and port, as in \"api.example.com:443\" or \"*.amazonaws.com:443\"";

/// Checks `raw`; how hosts are reached is what `[upstream]` says.
pub(super) fn policy(raw: &RawForward, upstream: &RawUpstream, egress: &Egress, context: &mut Context<'_>) -> Policy {
    let listed = &raw.connect_hosts;
    let hosts: Vec<_> = listed.value.iter().filter_map(|host| destination(host, context)).collect();
    let connect = match raw.connect.value {
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
                context.problems.error(raw.connect.span, message).help(FORM);
            }
            Connect::Tunnel(hosts)
        }
    };
    Policy {
        unmatched: raw.unmatched.value,
        connect,
        egress: egress.clone(),
        connect_timeout: upstream.connect_timeout.value,
        response_timeout: upstream.response_timeout.value,
        body_idle_timeout: upstream.body_idle_timeout.value,
    }
}

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
