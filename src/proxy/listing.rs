//! The routes that are served now, as they may be shown: names and addresses, never a value of a field.
//!
//! Imports `route`.

use std::sync::Arc;

use http::{HeaderName, Method};

use super::{LiveRoute, Proxy};
use crate::auth::Scheme;
use crate::route::Route;

/// What may be shown of a route.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: Arc<str>,
    /// Its own port; `None` is the main ones.
    pub listen: Option<String>,
    /// The host that it answers to; `None` is any.
    pub host: Option<String>,
    /// The prefix that it takes.
    pub path: String,
    /// The methods that it takes, where it says so.
    pub methods: Option<Vec<String>>,
    /// Where requests go, as a URL.
    pub upstream: String,
    /// What is dialled, where that is not the upstream itself.
    pub dials: Option<String>,
    /// The proxy on the way, without its password.
    pub proxy: Option<String>,
    /// The name of its auth; `None` adds nothing.
    pub auth: Option<Arc<str>>,
    /// Fields that it sets, besides those of the auth.
    pub sets: Vec<String>,
    /// Fields that it takes out.
    pub removes: Vec<String>,
}

impl Proxy {
    /// The routes that are served now, in the order of the config.
    pub fn routes(&self) -> Vec<Listed> {
        self.live.load().routes.iter().map(listed).collect()
    }
}

fn listed(live: &LiveRoute) -> Listed {
    let Route { name, listen, host, path, methods, upstream, request_headers, .. } = &live.route;
    let origin = &upstream.origin;
    let is_elsewhere = origin.dial.host != origin.authority.host().trim_matches(['[', ']']);
    let set = request_headers.set.iter().map(|(name, _)| name);
    let secrets = request_headers.secrets.iter().map(|(name, _)| name);
    Listed {
        name: Arc::clone(name),
        listen: listen.map(|address| address.to_string()),
        host: host.clone(),
        path: path.clone(),
        methods: methods.as_ref().map(|methods| methods.iter().map(Method::to_string).collect()),
        upstream: format!("{}://{}{}", origin.scheme, origin.authority, upstream.base_path),
        dials: is_elsewhere.then(|| origin.dial.to_string()),
        proxy: origin.via.as_ref().map(ToString::to_string),
        auth: live.scheme.as_deref().map(Scheme::name).map(Arc::clone),
        sets: set.chain(secrets).map(HeaderName::to_string).collect(),
        removes: request_headers.remove.iter().map(HeaderName::to_string).collect(),
    }
}
