//! `[[route]]` tables: each for itself, and against each other.

use std::sync::Arc;

use http::Method;

use super::auth::{Auths, LABEL_HELP, is_label};
use super::field::{self, AuthFields};
use super::sigv4::Toward;
use super::url::{self, Query};
use super::{Context, name, path, upstream};
use crate::config::diagnostic::Span;
use crate::config::raw::{RawRoute, RawRouteEntry};
use crate::config::read::{At, Text};
use crate::route::{IdempotencyKeys, Route};

/// Methods that the proxy itself refuses (docs/rules.md 2.2), so that a route for them would never be asked.
const NEVER: [Method; 2] = [Method::CONNECT, Method::TRACE];

/// Compiles all routes.
pub(super) fn compile(raw: Vec<At<RawRouteEntry>>, auths: &mut Auths, context: &mut Context<'_>) -> Vec<Route> {
    let mut keys: Vec<Key> = Vec::new();
    let mut routes = Vec::new();
    for At { value: entry, span } in raw {
        let key = Key::read(&entry.route, span, context);
        if let Some(key) = &key {
            refuse_doubles(key, &keys, context);
        }
        // Even without a key: its other problems are wanted too.
        let rest = Rest::read(&entry, auths, context);
        if let (Some(key), Some(rest)) = (&key, rest) {
            routes.push(rest.with(key, &entry));
        }
        keys.extend(key);
    }
    routes
}

/// What decides whether a request is a route's.
struct Key {
    name: Arc<str>,
    /// Whether `name` was made from the host and the path.
    derived: bool,
    /// Of the name, or of the `[[route]]`.
    span: Span,
    route: Span,
    listen: Option<std::net::SocketAddr>,
    host: Option<String>,
    path: String,
    methods: Option<Vec<Method>>,
}

impl Key {
    fn read(route: &RawRoute, span: Span, context: &mut Context<'_>) -> Option<Self> {
        let host = route.host.as_ref().map(|host| name::host("host", host, context));
        let path = prefix(route, context);
        let methods = route.methods.as_ref().map(|methods| self::methods(methods, context));
        let named = match &route.name {
            Some(name) if is_label(&name.value) => Some(str::to_owned(&name.value)),
            Some(name) => {
                context.problems.error(name.span, "the name of this route cannot be used").help(LABEL_HELP);
                return None;
            }
            None => None,
        };
        if let Some(Some(methods)) = &methods
            && route.websocket.value
            && !methods.contains(&Method::GET)
        {
            let message = "this route takes WebSockets, but not the method that they begin with";
            context.problems.error(route.websocket.span, message).help("add \"GET\" to `methods`");
        }
        // An inner `None` has been noted.
        let (host, methods) =
            (host.map_or(Some(None), |host| host.map(Some))?, methods.map_or(Some(None), |m| m.map(Some))?);
        let path = path?;
        let derived = named.is_none();
        Some(Self {
            name: named.unwrap_or_else(|| derive_name(host.as_deref(), &path)).into(),
            derived,
            span: route.name.as_ref().map_or(span, |name| name.span),
            route: span,
            listen: route.listen.as_ref().map(|address| address.value),
            host,
            path,
            methods,
        })
    }

    fn methods(&self) -> &[Method] {
        self.methods.as_deref().unwrap_or(&Route::DEFAULT_METHODS)
    }
}

/// `orders.local-v1-orders`; `root` for a route that takes everything.
fn derive_name(host: Option<&str>, path: &str) -> String {
    let parts = host.into_iter().chain(path.split('/')).filter(|part| !part.is_empty());
    let name = parts.collect::<Vec<_>>().join("-");
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    if name.is_empty() { "root".to_owned() } else { name.chars().map(fit).take(64).collect() }
}

fn prefix(route: &RawRoute, context: &mut Context<'_>) -> Option<String> {
    let At { value: text, span } = &route.path;
    let problem = match path::parse(text) {
        Ok(_) if text.is_empty() => {
            let problem = context.problems.error(*span, "`path` is empty");
            problem.help("write \"/\" for all paths");
            return None;
        }
        Ok(path) if path::has_encoded_slash(path) && !route.allow_encoded_slash.value => {
            let message = "`path` has an encoded slash (%2F), which this route does not let through";
            context.problems.error(*span, message).help("set `allow_encoded_slash = true`");
            return None;
        }
        Ok("") => return Some("/".to_owned()),
        Ok(path) => return Some(path.to_owned()),
        Err(error) => {
            let help = error.help();
            (context.problems.error(*span, format!("`path` {error}")), help)
        }
    };
    if let (problem, Some(help)) = problem {
        problem.help(help);
    }
    None
}

fn methods(raw: &At<Vec<At<Text>>>, context: &mut Context<'_>) -> Option<Vec<Method>> {
    if raw.value.is_empty() {
        let problem = context.problems.error(raw.span, "`methods` is empty, so this route would take nothing");
        problem.help("leave it out to take GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS");
        return None;
    }
    let mut methods = Vec::new();
    for text in &raw.value {
        let Ok(method) = Method::from_bytes(text.value.as_bytes()) else {
            let problem = context.problems.error(text.span, format!("{} is not a method", text.value));
            problem.help("a method is one word, such as \"GET\"");
            continue;
        };
        let upper = text.value.to_ascii_uppercase();
        if *upper != *text.value {
            let problem = context.problems.error(text.span, format!("the method {} is not in upper case", text.value));
            if text.value.is_filled_in() {
                problem.help("methods are case-sensitive");
            } else {
                problem.help(format!("methods are case-sensitive; write \"{upper}\""));
            }
        } else if NEVER.contains(&method) || upper == "TRACK" {
            context.problems.error(text.span, format!("{method} requests are never passed on")).help("take it out");
        } else if methods.contains(&method) {
            context.problems.error(text.span, format!("{method} is listed twice")).help("take one out");
        } else {
            methods.push(method);
        }
    }
    (!methods.is_empty()).then_some(methods)
}

fn refuse_doubles(key: &Key, others: &[Key], context: &mut Context<'_>) {
    if let Some(other) = others.iter().find(|other| other.name == key.name) {
        let message = format!("two routes are called \"{}\"", key.name);
        let problem = context.problems.error(key.span, message);
        problem.help(match (key.derived, other.derived) {
            (false, false) => "names tell routes apart in logs and metrics; choose another",
            _ => "a route without `name` is called by its host and path; give this one a `name` of its own",
        });
    }
    // Two listeners on port 0 get two ports.
    let own_port = key.listen.is_some_and(|address| address.port() == 0);
    let same =
        |other: &&Key| key.listen == other.listen && !own_port && key.host == other.host && key.path == other.path;
    for other in others.iter().filter(same) {
        let both: Vec<&str> =
            key.methods().iter().filter(|method| other.methods().contains(method)).map(Method::as_str).collect();
        if !both.is_empty() {
            let message =
                format!("this route and \"{}\" take the same requests: {} {}", other.name, both.join(", "), key.path);
            let problem = context.problems.error(key.route, message);
            problem.help("give them different `path`, `host`, `listen` or `methods`");
        }
    }
}

/// What happens to a route's requests.
struct Rest {
    upstream: crate::route::Upstream,
    scheme: Option<usize>,
    request_headers: crate::route::HeaderEdits,
}

impl Rest {
    fn read(entry: &RawRouteEntry, auths: &mut Auths, context: &mut Context<'_>) -> Option<Self> {
        let RawRouteEntry { route, upstream: raw } = entry;
        let url = route.upstream.as_ref().and_then(|text| {
            let url = url::read("upstream", text, Query::Refused, context)?;
            Some((text, url))
        });
        let transport = upstream::transport(raw, context);
        let upstream = upstream::resolve(route, url.as_ref().map(|(_, url)| url), transport, context);
        let dial = upstream.as_ref().map(|upstream| upstream.origin.dial.host.as_str());
        let (scheme, fields) = match &route.auth {
            Some(auth) => auths.bind(auth, url.as_ref().map(|(text, url)| Toward { text, url, dial }), context),
            None => (None, AuthFields::None),
        };
        let request_headers = field::edits(&route.request_headers.value, &fields, context);
        Some(Self { upstream: upstream?, scheme, request_headers })
    }

    fn with(self, key: &Key, entry: &RawRouteEntry) -> Route {
        let Self { upstream, scheme, request_headers } = self;
        let RawRouteEntry { route, upstream: raw } = entry;
        Route {
            name: Arc::clone(&key.name),
            listen: key.listen,
            host: key.host.clone(),
            path: key.path.clone(),
            methods: key.methods.clone(),
            upstream,
            strip_path: route.strip_path.value,
            scheme,
            request_headers,
            allow_encoded_slash: route.allow_encoded_slash.value,
            websocket: route.websocket.value,
            rewrite_location: route.rewrite_location.value,
            cookies: route.cookies.value,
            max_in_flight: route.max_in_flight.as_ref().map(|limit| limit.value),
            max_body: raw.max_body.value.0,
            replay_buffer: usize::try_from(raw.replay_buffer.value.0).unwrap_or(usize::MAX),
            response_timeout: raw.response_timeout.value,
            body_idle_timeout: raw.body_idle_timeout.value,
            upload_idle_timeout: raw.upload_idle_timeout.value,
            credential_timeout: raw.credential_timeout.value,
            idempotency_keys: if route.retry_idempotency_key.value {
                IdempotencyKeys::Trusted
            } else {
                IdempotencyKeys::Ignored
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_name_is_fit_for_logs() {
        assert_eq!(derive_name(None, "/"), "root");
        assert_eq!(derive_name(None, "/v1/orders"), "v1-orders");
        assert_eq!(derive_name(Some("orders.local"), "/"), "orders.local");
        assert_eq!(derive_name(Some("[::1]"), "/a%20b"), "---1--a-20b");
    }
}
