//! How an upstream is reached: addresses, timeouts, TLS files.

use std::path::PathBuf;
use std::time::Duration;

use http::uri::Scheme;

use super::url::{self, Url, UrlScheme};
use super::{Context, environment, name, secret, size};
use crate::config::diagnostic::Span;
use crate::config::raw::{RawFieldValue, RawRoute, RawRouteEntry, RawUpstream, RawWay};
use crate::config::read::{At, Text};
use crate::egress::{Egress, NoProxy, ProxyUrl, is_loopback};
use crate::route::upstream::{Answers, HostPort};
use crate::route::{Origin, Upstream};
use crate::secret::Secret;
use crate::tls::{ClientSettings, Identity, TlsError};
use crate::units::ByteSize;

/// The `[upstream]` keys as they hold for one route.
#[derive(Clone, Debug)]
pub(super) struct Transport {
    pub(super) tls: ClientSettings,
    pub(super) egress: Egress,
    dns_timeout: Duration,
    connect_timeout: Duration,
    tls_timeout: Duration,
    pool_idle_timeout: Duration,
    max_connection_age: Duration,
    ping_interval: Duration,
    ping_timeout: Duration,
    answers: Answers,
}

/// Checks the files that `raw` names. What a route inherits is looked at again and noted once.
pub(super) fn transport(raw: &RawUpstream, context: &mut Context<'_>) -> Transport {
    let ca_file = ca_file(raw.ca_file.as_ref(), context);
    let mut tls = ClientSettings { ca_file, identity: None, http2: raw.http2.value };
    if let (Some(cert), Some(key)) = (&raw.client_cert, &raw.client_key) {
        let identity = Identity { cert: context.file(&cert.value), key: context.file(&key.value) };
        check_identity(&identity, ("client_cert", cert.span), ("client_key", key.span), context);
        tls.identity = Some(identity);
    }
    Transport {
        tls,
        egress: egress(&raw.proxy, context),
        dns_timeout: raw.dns_timeout.value,
        connect_timeout: raw.connect_timeout.value,
        tls_timeout: raw.tls_timeout.value,
        pool_idle_timeout: raw.pool_idle_timeout.value,
        max_connection_age: raw.max_connection_age.value,
        ping_interval: raw.ping_interval.value,
        ping_timeout: raw.ping_timeout.value,
        answers: answers(raw, context),
    }
}

/// What answers may be.
fn answers(raw: &RawUpstream, context: &mut Context<'_>) -> Answers {
    // No less is read at once than the least; what is more than the most is no head.
    let head = size::within("max_response_head", &raw.max_response_head, 8..=1024, context);
    let fields = size::number("max_response_fields", &raw.max_response_fields, 10..=1_000, context);
    let interim = size::number("max_interim", &raw.max_interim, 1..=1_000, context);
    Answers {
        head: u32::try_from(head).unwrap_or(u32::MAX),
        fields,
        interim: u32::try_from(interim).unwrap_or(u32::MAX),
    }
}

/// The file of further roots, after noting what is wrong with it.
pub(super) fn ca_file(name: Option<&At<Text>>, context: &mut Context<'_>) -> Option<PathBuf> {
    let name = name?;
    let path = context.file(&name.value);
    let settings = ClientSettings { ca_file: Some(path.clone()), ..ClientSettings::default() };
    if let Err(error) = settings.check() {
        refuse_file("ca_file", name.span, &path.display().to_string(), &error, context);
    }
    Some(path)
}

/// What the key `proxy` means here.
fn egress(raw: &At<RawWay>, context: &mut Context<'_>) -> Egress {
    const FORM: &str = "write \"env\", \"none\", \"http://proxy.example:3128\" or { env = \"NAME\" }";
    let url = match &raw.value.0 {
        RawFieldValue::Text(text) if &**text == "none" => return Egress::direct(),
        RawFieldValue::Text(text) if &**text == "env" => return environment::egress(context),
        RawFieldValue::Text(text) => Secret::from(&**text),
        RawFieldValue::Secret(secret) => {
            let Some(found) = secret::find("proxy", secret, context) else { return Egress::direct() };
            let Some(known) = secret::known(&found) else {
                let problem =
                    context.problems.error(raw.span, "`proxy` cannot come from a store, which may be behind it");
                problem.help(FORM);
                return Egress::direct();
            };
            known
        }
    };
    match ProxyUrl::parse(url.expose()) {
        // What is written for an upstream holds for it, whatever NO_PROXY says.
        Ok(proxy) => Egress::through(proxy, NoProxy::default()),
        Err(error) => {
            context.problems.error(raw.span, format!("`proxy` {error}")).help(FORM);
            Egress::direct()
        }
    }
}

/// Notes what is wrong with a certificate and its key, each a key of the config.
pub(super) fn check_identity(identity: &Identity, cert: (&str, Span), key: (&str, Span), context: &mut Context<'_>) {
    let settings = ClientSettings { identity: Some(identity.clone()), ..ClientSettings::default() };
    match settings.check() {
        Ok(()) => secret::warn_if_open(&format!("the private key in `{}`", key.0), key.1, &identity.key, context),
        Err(error) => {
            let of_key = matches!(&error, TlsError::Pem { path, .. } if *path == identity.key);
            let ((name, span), path) = if of_key { (key, &identity.key) } else { (cert, &identity.cert) };
            refuse_file(name, span, &path.display().to_string(), &error, context);
        }
    }
}

fn refuse_file(key: &str, span: Span, path: &str, error: &TlsError, context: &mut Context<'_>) {
    let problem = context.problems.error(span, format!("`{key}` {}", error.reason()));
    problem.help(format!("the file is {path}"));
}

/// A body that is larger than the whole budget could never be held, so it would be refused whatever the limit says.
pub(super) fn check_budget(
    upstream: &RawUpstream,
    routes: &[At<RawRouteEntry>],
    budget: &At<ByteSize>,
    context: &mut Context<'_>,
) {
    let routes = routes.iter().map(|route| &route.value.upstream.max_body);
    for limit in std::iter::once(&upstream.max_body).chain(routes) {
        if limit.value <= budget.value {
            continue;
        }
        let (limited, budget_size) = (limit.value, budget.value);
        let (span, message) = if limit.span.is_written() {
            (limit.span, format!("`max_body` of {limited} is more than the whole `buffer_budget` of {budget_size}"))
        } else {
            (budget.span, format!("`buffer_budget` of {budget_size} is less than one body of `max_body`, {limited}"))
        };
        let problem = context.problems.error(span, message);
        problem.help("such a body could never be held; lower `max_body` or raise [proxy] buffer_budget");
    }
}

/// Where a route's requests go; `url` is its `upstream`, and without one the other keys are looked at all the same.
pub(super) fn resolve(
    route: &RawRoute,
    url: Option<&Url>,
    transport: Transport,
    context: &mut Context<'_>,
) -> Option<Upstream> {
    let scheme = url.map_or(UrlScheme::Https, |url| url.scheme);
    let connect_to = route.connect_to.as_ref().map(|address| dial(address, scheme, context));
    let given_name = route.server_name.as_ref().map(|text| server_name(text, scheme, context));
    let url = url?;
    let dial = connect_to
        .unwrap_or_else(|| Some(HostPort { host: url.host.clone(), port: url.port.unwrap_or(scheme.default_port()) }));
    let server_name = given_name.unwrap_or_else(|| Some(url.host.clone()));
    let Transport {
        tls,
        egress,
        dns_timeout,
        connect_timeout,
        tls_timeout,
        pool_idle_timeout,
        max_connection_age,
        ping_interval,
        ping_timeout,
        answers,
    } = transport;
    let origin = Origin {
        scheme: match url.scheme {
            UrlScheme::Http => Scheme::HTTP,
            UrlScheme::Https => Scheme::HTTPS,
        },
        // A checked name and a number; nothing else is in it.
        authority: url.authority().parse().ok()?,
        via: match (&dial, url.scheme) {
            (Some(dial), UrlScheme::Https) => egress.to(&dial.host, dial.port).cloned(),
            (None, _) | (Some(_), UrlScheme::Http) => None,
        },
        dial: dial?,
        server_name: server_name?,
        tls,
        dns_timeout,
        connect_timeout,
        tls_timeout,
        ping_interval,
        ping_timeout,
        pool_idle_timeout,
        max_connection_age,
        answers,
    };
    Some(Upstream { origin: origin.into(), base_path: url.path.clone() })
}

fn dial(text: &At<Text>, scheme: UrlScheme, context: &mut Context<'_>) -> Option<HostPort> {
    const FORM: &str = "write host and port, as in \"vpce-0a1.execute-api.eu-west-1.vpce.amazonaws.com:443\"";
    // Before the port is looked for: a URL's port is not behind its last colon.
    if text.value.contains('/') {
        context.problems.error(text.span, "`connect_to` is a URL, and must be a host and a port").help(FORM);
        return None;
    }
    let (host, port) = match url::split_port(&text.value) {
        Ok(parts) => parts,
        Err(error) => {
            url::refuse("connect_to", text, &error, context);
            return None;
        }
    };
    match name::parse(host) {
        Ok(host) if scheme == UrlScheme::Http && !is_loopback(&host) => {
            let problem =
                context.problems.error(text.span, "`connect_to` is not loopback, and this upstream is http://");
            problem.help("what leaves the machine must be encrypted; write https:// in `upstream`");
            None
        }
        Ok(host) => Some(HostPort { host, port: port.unwrap_or(scheme.default_port()) }),
        Err(error) => {
            context.problems.error(text.span, format!("the host in `connect_to` {error}")).help(FORM);
            None
        }
    }
}

fn server_name(text: &At<Text>, scheme: UrlScheme, context: &mut Context<'_>) -> Option<String> {
    if scheme == UrlScheme::Http {
        let problem = context.problems.warning(text.span, "`server_name` does nothing: this upstream is http://");
        problem.help("take it out");
    }
    match name::parse(&text.value) {
        Ok(name) => Some(name),
        Err(error) => {
            let problem = context.problems.error(text.span, format!("`server_name` {error}"));
            problem.help("write the name that the upstream's certificate carries, as in \"api.example.com\"");
            None
        }
    }
}
