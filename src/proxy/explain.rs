//! What would happen to a request, in words: the same steps as [`super::Proxy`] takes, without a credential and without
//! sending anything. `countersign explain` prints it.
//!
//! Values that came from secrets are marked sensitive and not shown. Imports `auth`, `route`, `message`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HeaderName, HeaderValue};
use http::uri::Scheme;
use http::{Method, Request, Uri};

use super::Settings;
use super::elsewhere::{Known, Lead, Way};
use super::guard::{Guard, Named};
use super::outcome::ProxyError;
use super::rewrite::{outgoing_fields, outgoing_target};
use crate::auth::canonical::{Added, canonical_request};
use crate::auth::control::without_query;
use crate::auth::request::Unsigned;
use crate::auth::sigv4::Scope;
use crate::auth::spec::{AwsSource, Bearer, CognitoUser, Coverage, Kind, PayloadSigning, Spec, TokenSource, UserToken};
use crate::egress::ProxyUrl;
use crate::message::body::Sha256Hex;
use crate::message::fields::{self, REQUEST_ID};
use crate::message::target::{Target, TargetError};
use crate::route::upstream::HostPort;
use crate::route::{self, NoMatch, Route, Table};

/// What would happen to one request.
#[derive(Debug)]
pub enum Explanation<'a> {
    /// It is sent, or something in its place.
    Sent(Box<Sent<'a>>),
    /// The tunnel that it asks for ends here; what is asked for in it is another request.
    Intercepted(HostPort),
    /// Its bytes are carried in a tunnel.
    Carried {
        /// The other end.
        to: HostPort,
        /// The proxy on the way.
        via: Option<ProxyUrl>,
    },
}

/// A request as it goes out.
#[derive(Debug)]
pub struct Sent<'a> {
    comes: Comes,
    route: Cow<'a, Route>,
    spec: Option<&'a Spec>,
    method: Method,
    url: String,
    removed: Vec<HeaderName>,
    fields: Vec<(HeaderName, HeaderValue)>,
    canonical: Option<String>,
}

/// How it comes to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    AsItIs,
    /// In a tunnel that ends here.
    BehindConnect,
}

/// Follows `request` (with an absolute URI) through `routes`.
///
/// # Errors
/// The [`ProxyError`] that a caller would get.
pub fn explain<'a>(
    settings: &Settings,
    routes: &'a [Route],
    specs: &'a [Spec],
    request: Request<()>,
    now: SystemTime,
) -> Result<Explanation<'a>, ProxyError> {
    let hosts = routes.iter().filter_map(|route| route.host.clone());
    // Whoever can run this may know the token; it need not be shown.
    let by_url: Vec<Route> = route::by_url(routes).into_iter().map(|(_, route)| route).collect();
    let guard = Guard::new(settings, hosts, by_url.iter().filter_map(|route| route.host.clone()), None);
    let (parts, ()) = request.into_parts();
    let named = guard.check(&parts)?;
    let known = || Known::of(routes.iter().chain(&by_url));
    let mut comes = Comes::AsItIs;
    if let Some(to) = tunnel_of(&named, &parts.uri) {
        match settings.elsewhere.connect(&to, &known())? {
            Lead::Here(_) if !matches!(named, Named::Tunnel(_)) => comes = Comes::BehindConnect,
            Lead::Here(_) => return Ok(Explanation::Intercepted(to)),
            Lead::There(via) => return Ok(Explanation::Carried { to, via: via.cloned() }),
        }
    }
    let target = Target::parse(parts.uri.path_and_query().ok_or(TargetError::NotAPath)?)?;
    let route = match &named {
        Named::Here(host) => {
            find(routes, parts.uri.port_u16(), host, target.path(), &parts.method).map(Cow::Borrowed)?
        }
        Named::Upstream(host) => {
            let found = by_any_listener(&by_url, host, target.path(), &parts.method);
            found.map_err(|refusal| match refusal {
                NoMatch::NotFound => known().refuse(host),
                NoMatch::MethodNotAllowed(_) => ProxyError::no_match(refusal, host, target.path(), &parts.method),
            })?
        }
        Named::Elsewhere(to) | Named::Tunnel(to) => {
            let Way { route, .. } = settings.elsewhere.lead(to, &known())?;
            Cow::Owned(route)
        }
    };
    let spec = route.scheme.and_then(|index| specs.get(index));
    let coverage = spec.map_or(Coverage::Nothing, Spec::coverage);
    let path_and_query = outgoing_target(&target, &route, coverage)?;
    let mut removed = Vec::new();
    let mut headers = parts.headers;
    guard.strip_forwarding(&mut headers, |name| removed.push(name.clone()));
    outgoing_fields(&mut headers, &route, coverage, fields::via(parts.version), |name| removed.push(name.clone()));
    headers.insert(REQUEST_ID, HeaderValue::from_static("<new>"));
    for (name, _) in &route.request_headers.secrets {
        let mut value = HeaderValue::from_static("<secret>");
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let origin = Arc::clone(&route.upstream.origin);
    let unsigned = Unsigned {
        method: &parts.method,
        authority: &origin.authority,
        path_and_query: &path_and_query,
        headers: &headers,
        payload: Some(&Sha256Hex::of_nothing()),
    };
    let canonical = match spec.map(|spec| &spec.kind) {
        Some(Kind::SigV4(sigv4)) => {
            let scope = Scope { region: sigv4.region.clone(), service: sigv4.service.clone(), payload: sigv4.payload };
            let date = amz_date(now);
            let added = Added { date: &date, security_token: Some("<session token, of temporary keys>") };
            Some(canonical_request(&unsigned, &scope, &added).map_err(ProxyError::Auth)?)
        }
        Some(Kind::Bearer(_)) | None => None,
    };
    let url = format!("{}://{}{}", origin.scheme, origin.authority, path_and_query);
    let fields = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let sent = Sent { comes, route, spec, method: parts.method, url, removed, fields, canonical };
    Ok(Explanation::Sent(Box::new(sent)))
}

/// What a program would name in a CONNECT to ask for this: of `https://` alone, and not of what is ourselves.
fn tunnel_of(named: &Named, uri: &Uri) -> Option<HostPort> {
    match named {
        Named::Tunnel(to) => Some(to.clone()),
        Named::Upstream(_) | Named::Elsewhere(_) if uri.scheme() == Some(&Scheme::HTTPS) => {
            let host = uri.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
            Some(HostPort { host, port: uri.port_u16().unwrap_or(443) })
        }
        Named::Here(_) | Named::Upstream(_) | Named::Elsewhere(_) => None,
    }
}

/// The route's own port is tried first, then the main listeners.
fn find<'a>(
    routes: &'a [Route],
    port: Option<u16>,
    host: &str,
    path: &str,
    method: &Method,
) -> Result<&'a Route, ProxyError> {
    let table = Table::new(routes);
    let own = routes.iter().filter_map(|route| route.listen).find(|listen| Some(listen.port()) == port);
    let found = table.find(own, host, path, method).and_then(|index| routes.get(index).ok_or(NoMatch::NotFound));
    found.map_err(|refusal| ProxyError::no_match(refusal, host, path, method))
}

/// By an upstream's own URL, which has the upstream's port: any listener will do, the main ones first.
fn by_any_listener<'a>(by_url: &[Route], host: &str, path: &str, method: &Method) -> Result<Cow<'a, Route>, NoMatch> {
    let table = Table::new(by_url);
    let owns = by_url.iter().filter_map(|route| route.listen).map(Some);
    let mut refusal = NoMatch::NotFound;
    for listener in std::iter::once(None).chain(owns) {
        match table.find(listener, host, path, method) {
            Ok(index) => return by_url.get(index).cloned().map(Cow::Owned).ok_or(NoMatch::NotFound),
            Err(NoMatch::NotFound) => {}
            Err(other @ NoMatch::MethodNotAllowed(_)) => refusal = other,
        }
    }
    Err(refusal)
}

/// `20261121T083000Z`.
fn amz_date(time: SystemTime) -> String {
    let written = aws_smithy_types::DateTime::from(time);
    let iso = written.fmt(aws_smithy_types::date_time::Format::DateTime).unwrap_or_default();
    // 2026-11-21T08:30:00.123Z, without what SigV4 leaves out.
    let whole = iso.split('.').next().unwrap_or_default();
    let digits: String = whole.chars().filter(|c| c.is_ascii_digit() || *c == 'T').collect();
    format!("{digits}Z")
}

impl Explanation<'_> {
    /// Whether it is authorised by the token of an OAuth2 client, which a fleet may share.
    pub fn has_client_token(&self) -> bool {
        let Self::Sent(sent) = self else { return false };
        matches!(sent.spec.map(|spec| &spec.kind), Some(Kind::Bearer(Bearer { token: TokenSource::Client(_), .. })))
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = match self {
            Self::Sent(sent) => sent,
            Self::Intercepted(to) => {
                return writeln!(f, "tunnel     {to}: ends here; explain the URL that is asked for in it");
            }
            Self::Carried { to, via } => {
                writeln!(f, "tunnel     {to}: bytes are carried unseen, without a credential")?;
                return match via {
                    Some(proxy) => writeln!(f, "dials      {proxy}, the proxy on the way"),
                    None => writeln!(f, "dials      {to}, where that is not this machine, its link or metadata"),
                };
            }
        };
        let Sent { comes, route, spec, method, url, removed, fields, canonical } = &**sent;
        if *comes == Comes::BehindConnect {
            writeln!(f, "comes      behind a CONNECT, which ends here")?;
        }
        let origin = &route.upstream.origin;
        let strip = if route.strip_path { ", taken off" } else { "" };
        writeln!(f, "route      {} (path {}{strip})", route.name, route.path)?;
        writeln!(f, "sends      {method} {url}")?;
        writeln!(f, "dials      {}, certificate for \"{}\"", origin.dial, origin.server_name)?;
        writeln!(f, "auth       {}", spec.map_or_else(|| "none".to_owned(), describe))?;
        let removed: Vec<&str> = removed.iter().map(HeaderName::as_str).collect();
        writeln!(f, "drops      {}", if removed.is_empty() { "nothing".to_owned() } else { removed.join(", ") })?;
        writeln!(f, "fields     host: {}", origin.authority)?;
        for (name, value) in fields {
            let shown = match value.to_str() {
                _ if value.is_sensitive() => "<secret>",
                Ok(text) => text,
                Err(_) => "<bytes that are not ASCII>",
            };
            writeln!(f, "           {name}: {shown}")?;
        }
        if let Some(Kind::Bearer(bearer)) = spec.map(|spec| &spec.kind) {
            let scheme = if bearer.scheme.is_empty() { String::new() } else { format!("{} ", bearer.scheme) };
            writeln!(f, "           {}: {scheme}<token>", bearer.header)?;
        }
        if let Some(canonical) = canonical {
            writeln!(f, "           x-amz-date, x-amz-security-token, authorization: <signature>")?;
            writeln!(f, "\ncanonical request (with an empty body):\n{canonical}")?;
        }
        Ok(())
    }
}

fn describe(spec: &Spec) -> String {
    let name = &spec.name;
    match &spec.kind {
        Kind::Bearer(Bearer { token: TokenSource::Client(client), .. }) => {
            let scopes = client.scopes.join(" ");
            let (url, id) = (without_query(&client.token_url), &client.client_id);
            format!("{name}: token of client {id} from {url}, scopes \"{scopes}\"")
        }
        Kind::Bearer(Bearer { token: TokenSource::User(user, which), .. }) => {
            let which = match which {
                UserToken::Access => "access",
                UserToken::Id => "ID",
            };
            let CognitoUser { username, client_id, user_pool_id, .. } = user;
            format!(
                "{name}: {which} token of user {username:?}, logged in through client {client_id} of {user_pool_id}"
            )
        }
        Kind::SigV4(sigv4) => {
            let source = match &sigv4.credentials.source {
                AwsSource::Default => "the default chain".to_owned(),
                AwsSource::Environment => "keys of the environment".to_owned(),
                AwsSource::Container => "the container's role".to_owned(),
                AwsSource::Instance => "the instance's role".to_owned(),
                AwsSource::WebIdentity => "the web identity's role".to_owned(),
                AwsSource::Profile(profile) => format!("profile \"{profile}\""),
                AwsSource::Static { .. } => "static keys".to_owned(),
                AwsSource::IdentityPool(pool) => match &pool.login {
                    Some(login) => format!("the login \"{}\" in identity pool {}", login.name, pool.id),
                    None => format!("an unauthenticated identity of identity pool {}", pool.id),
                },
            };
            let roles: Vec<&str> = sigv4.credentials.roles.iter().map(|role| role.arn.as_str()).collect();
            let role = if roles.is_empty() { String::new() } else { format!(", assuming {}", roles.join(", then ")) };
            let body = match sigv4.payload {
                PayloadSigning::Signed => "",
                PayloadSigning::Unsigned => ", body not signed",
            };
            format!("{name}: SigV4 for {} in {} with {source}{role}{body}", sigv4.service, sigv4.region)
        }
    }
}
