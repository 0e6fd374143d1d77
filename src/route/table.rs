//! Finding the route of a request: by listener, host, longest prefix of whole segments, method.
//!
//! A host's own routes come before those without a host. The longest prefix decides even when a shorter one would take
//! the method: a request must not slip to another API because of its method. The cost is one hash lookup per segment of
//! the deepest route at most, whatever the number of routes. Imports nothing else of ours.

use std::collections::HashMap;
use std::net::SocketAddr;

use http::Method;

use super::Route;

/// An index over a list of routes.
#[derive(Debug, Default)]
pub struct Table {
    listeners: HashMap<Option<SocketAddr>, Hosts>,
}

#[derive(Debug, Default)]
struct Hosts {
    named: HashMap<String, Prefixes>,
    any: Prefixes,
}

#[derive(Debug, Default)]
struct Prefixes {
    entries: HashMap<String, Vec<Entry>>,
    /// Segments of the longest one: a path of thousands costs no more than a short one.
    deepest: usize,
}

#[derive(Debug)]
struct Entry {
    methods: Vec<Method>,
    index: usize,
}

/// Why no route takes a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoMatch {
    /// No route has this host and path.
    NotFound,
    /// The path is a route's, the method is not; these are.
    MethodNotAllowed(Vec<Method>),
}

impl Table {
    /// Indexes `routes`; what is found is the position in that list.
    pub fn new(routes: &[Route]) -> Self {
        let mut table = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let hosts = table.listeners.entry(route.listen).or_default();
            let prefixes = match &route.host {
                Some(host) => hosts.named.entry(host.clone()).or_default(),
                None => &mut hosts.any,
            };
            let entry = Entry { methods: route.methods().to_vec(), index };
            prefixes.deepest = prefixes.deepest.max(route.path.matches('/').count());
            prefixes.entries.entry(route.path.clone()).or_default().push(entry);
        }
        table
    }

    /// The route for a request that came to `listener` (`None`: a main one) for `host` (lower case, no port).
    ///
    /// # Errors
    /// [`NoMatch`].
    pub fn find(
        &self,
        listener: Option<SocketAddr>,
        host: &str,
        path: &str,
        method: &Method,
    ) -> Result<usize, NoMatch> {
        let hosts = self.listeners.get(&listener).ok_or(NoMatch::NotFound)?;
        let entries = hosts.named.get(host).and_then(|prefixes| prefixes.longest(path));
        let entries = entries.or_else(|| hosts.any.longest(path)).ok_or(NoMatch::NotFound)?;
        let taker = entries.iter().find(|entry| entry.methods.contains(method));
        taker.map(|entry| entry.index).ok_or_else(|| {
            NoMatch::MethodNotAllowed(entries.iter().flat_map(|entry| entry.methods.iter().cloned()).collect())
        })
    }
}

impl Prefixes {
    fn longest(&self, path: &str) -> Option<&[Entry]> {
        let beyond = path.match_indices('/').nth(self.deepest).map(|(index, _)| index);
        let mut prefix = beyond.and_then(|end| path.get(..end)).unwrap_or(path);
        loop {
            if let Some(entries) = self.entries.get(prefix) {
                return Some(entries);
            }
            prefix = match prefix.rsplit_once('/') {
                Some(("", "")) | None => return None,
                Some(("", _)) => "/",
                Some((shorter, _)) => shorter,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::uri::{Authority, Scheme};

    use super::*;
    use crate::route::upstream::HostPort;
    use crate::route::{Cookies, HeaderEdits, Origin, Upstream};
    use crate::tls::ClientSettings;

    fn route(listen: Option<&str>, host: Option<&str>, path: &str, methods: Option<Vec<Method>>) -> Route {
        let second = Duration::from_secs(1);
        let origin = Origin {
            scheme: Scheme::HTTPS,
            authority: Authority::from_static("api.example"),
            dial: HostPort { host: "api.example".into(), port: 443 },
            via: None,
            server_name: "api.example".into(),
            tls: ClientSettings::default(),
            dns_timeout: second,
            connect_timeout: second,
            ping_interval: second,
            ping_timeout: second,
            tls_timeout: second,
            pool_idle_timeout: second,
            max_connection_age: second,
            answers: crate::route::upstream::Answers::default(),
        };
        Route {
            name: path.into(),
            listen: listen.map(|address| address.parse().unwrap()),
            host: host.map(ToOwned::to_owned),
            path: path.to_owned(),
            methods,
            upstream: Upstream { origin: origin.into(), base_path: String::new() },
            strip_path: false,
            scheme: None,
            request_headers: HeaderEdits::default(),
            allow_encoded_slash: false,
            websocket: false,
            rewrite_location: false,
            cookies: Cookies::Pass,
            max_in_flight: None,
            max_body: 0,
            replay_buffer: 0,
            response_timeout: second,
            body_idle_timeout: second,
            upload_idle_timeout: second,
            credential_timeout: second,
            idempotency_keys: crate::route::IdempotencyKeys::Ignored,
        }
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let table = Table::new(&[
            route(None, None, "/orders", None),
            route(None, None, "/orders/new", None),
            route(None, None, "/ordersX", None),
        ]);
        let find = |path: &str| table.find(None, "localhost", path, &Method::GET);
        assert_eq!(find("/orders"), Ok(0));
        assert_eq!(find("/orders/"), Ok(0));
        assert_eq!(find("/orders/newer"), Ok(0));
        assert_eq!(find("/orders/new/1/2"), Ok(1));
        assert_eq!(find("/ordersX"), Ok(2));
        for path in ["/orders@evil.test/", "/orders.evil.test/", "/order", "/ORDERS", "/", "/orders%2Fnew"] {
            assert_eq!(find(path), Err(NoMatch::NotFound), "{path}");
        }
    }

    #[test]
    fn a_host_of_its_own_comes_before_the_routes_of_all_hosts() {
        let table = Table::new(&[
            route(None, None, "/a/b", None),
            route(None, Some("x.local"), "/a", None),
            route(None, None, "/", None),
        ]);
        assert_eq!(table.find(None, "x.local", "/a/b", &Method::GET), Ok(1));
        assert_eq!(table.find(None, "x.local", "/c", &Method::GET), Ok(2));
        assert_eq!(table.find(None, "y.local", "/a/b", &Method::GET), Ok(0));
    }

    #[test]
    fn a_method_does_not_slip_to_a_shorter_prefix() {
        let table = Table::new(&[
            route(None, None, "/", None),
            route(None, None, "/a", Some(vec![Method::GET])),
            route(None, None, "/a", Some(vec![Method::PUT])),
        ]);
        assert_eq!(table.find(None, "h", "/a", &Method::PUT), Ok(2));
        let refused = table.find(None, "h", "/a", &Method::POST);
        assert_eq!(refused, Err(NoMatch::MethodNotAllowed(vec![Method::GET, Method::PUT])));
    }

    #[test]
    fn a_port_of_its_own_leads_to_its_own_routes_only() {
        let own = "127.0.0.1:8081";
        let table = Table::new(&[route(Some(own), None, "/", None), route(None, None, "/main", None)]);
        assert_eq!(table.find(own.parse().ok(), "h", "/main", &Method::GET), Ok(0));
        assert_eq!(table.find(None, "h", "/main", &Method::GET), Ok(1));
        assert_eq!(table.find(None, "h", "/", &Method::GET), Err(NoMatch::NotFound));
    }
}
