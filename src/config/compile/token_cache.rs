//! `[token_cache]`: where a fleet shares its tokens.

use super::auth::is_label;
use super::url::split_port;
use super::{Context, name, secret, upstream};
use crate::auth::shared::{Layout, Settings, Transport};
use crate::auth::spec::{Bearer, Kind, SecretSource, Spec, TokenSource};
use crate::config::diagnostic::Span;
use crate::config::raw::{RawFieldValue, RawTokenCache};
use crate::config::read::{At, Text};
use crate::egress::is_loopback;
use crate::route::upstream::HostPort;
use crate::secret::Secret;
use crate::tls::{ClientSettings, Http2};

const PORT: u16 = 6379;
const FORM: &str = "write \"rediss://cache.example:6379\"; redis:// is for loopback only";

/// Why a URL leads to no store.
#[derive(Debug, thiserror::Error)]
enum UrlError {
    #[error("does not begin with rediss:// or redis://")]
    Scheme,
    #[error("has a user name or password in it")]
    Userinfo,
    #[error("has a host that {0}")]
    Host(name::NameError),
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    #[error("has something behind the host and port that is not the number of a database")]
    Database,
    #[error("sends a password in plain text: redis:// is for loopback only")]
    PlainText,
}

struct Url {
    is_plain: bool,
    server: HostPort,
    database: u32,
}

/// The store; `None` where none is asked for, or after noting what is wrong with it.
pub(super) fn compile(raw: &RawTokenCache, context: &mut Context<'_>) -> Option<Settings> {
    let password = raw.password.as_ref().and_then(|secret| secret::find("password", &secret.value, context));
    let username = raw.username.as_ref().and_then(|value| username(value, context));
    if let (Some(username), None) = (&raw.username, &raw.password) {
        let problem = context.problems.error(username.span, "`username` of [token_cache] has no `password` beside it");
        problem.help("set both, or neither");
    }
    if !is_label(&raw.prefix.value) {
        let problem = context.problems.error(raw.prefix.span, "`prefix` cannot be used in front of keys");
        problem.help("it is 1 to 64 letters, digits, \"-\", \"_\" and \".\"");
    }
    let ca_file = upstream::ca_file(raw.ca_file.as_ref(), context);
    let Some(text) = &raw.url else {
        if let Some(span) = written(raw) {
            let problem = context.problems.error(span, "[token_cache] has no `url`");
            problem.help("set it to the Redis or Valkey that the fleet shares, or take the table out");
        }
        return None;
    };
    let url = match parse(&text.value) {
        Ok(url) => url,
        Err(error) => {
            let problem = context.problems.error(text.span, format!("`url` {error}"));
            problem.help(if matches!(error, UrlError::Userinfo) {
                "use the keys `username` and `password`"
            } else {
                FORM
            });
            return None;
        }
    };
    let layout = if raw.cluster.value { Layout::Cluster } else { Layout::Single };
    if layout == Layout::Cluster && url.database != 0 {
        let problem = context.problems.error(text.span, "`url` names a database, and a cluster has one alone");
        problem.help("take the number out");
    }
    if let (true, Some(file)) = (url.is_plain, &raw.ca_file) {
        let problem = context.problems.warning(file.span, "`ca_file` does nothing: this `url` is redis://");
        problem.help("take it out");
    }
    let transport = if url.is_plain {
        Transport::Plain
    } else {
        Transport::Tls(ClientSettings { ca_file, identity: None, http2: Http2::Never })
    };
    Some(Settings {
        server: url.server,
        transport,
        database: url.database,
        username,
        password,
        layout,
        prefix: str::to_owned(&raw.prefix.value),
        timeout: raw.timeout.value,
    })
}

/// Warns of a store that nothing is shared through.
pub(super) fn warn_if_idle(raw: &RawTokenCache, schemes: &[Spec], context: &mut Context<'_>) {
    let is_shared = |spec: &Spec| matches!(&spec.kind, Kind::Bearer(Bearer { token: TokenSource::Client(_), .. }));
    if let (Some(url), false) = (&raw.url, schemes.iter().any(is_shared)) {
        let message = "[token_cache] does nothing: no route uses a table of kind \"client-credentials\"";
        context.problems.warning(url.span, message).help("logins of users and AWS credentials are never shared");
    }
}

fn username(value: &At<RawFieldValue>, context: &mut Context<'_>) -> Option<SecretSource> {
    match &value.value {
        RawFieldValue::Text(text) if text.is_empty() => {
            context.problems.error(value.span, "`username` is empty").help("leave it out for the default user");
            None
        }
        RawFieldValue::Text(text) => Some(SecretSource::Fixed(Secret::from(&**text))),
        RawFieldValue::Secret(secret) => secret::find("username", secret, context),
    }
}

/// Where a key stands that says where the store is, or how to be let in. Defaults may be written out.
fn written(raw: &RawTokenCache) -> Option<Span> {
    let RawTokenCache { url: _, username, password, ca_file, cluster: _, prefix: _, timeout: _ } = raw;
    let given =
        [username.as_ref().map(|at| at.span), password.as_ref().map(|at| at.span), ca_file.as_ref().map(|at| at.span)];
    given.into_iter().flatten().next()
}

fn parse(text: &Text) -> Result<Url, UrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
    let is_plain = match scheme.to_ascii_lowercase().as_str() {
        "redis" | "valkey" => true,
        "rediss" | "valkeys" => false,
        _ => return Err(UrlError::Scheme),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err(UrlError::Userinfo);
    }
    let (host, port) = split_port(authority).map_err(|_not_a_number| UrlError::Port)?;
    let host = name::parse(host).map_err(UrlError::Host)?;
    let database = match path {
        "" => 0,
        number => number.parse().map_err(|_not_a_number| UrlError::Database)?,
    };
    if is_plain && !is_loopback(&host) {
        return Err(UrlError::PlainText);
    }
    Ok(Url { is_plain, server: HostPort { host, port: port.unwrap_or(PORT) }, database })
}
