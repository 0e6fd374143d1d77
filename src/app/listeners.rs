//! The listeners of a config, and what becomes of them when another takes its place.
//!
//! One that both want stays as it is, with all that waits in its queue; new ones are opened before anything changes, so
//! that a port which cannot be had refuses the whole config; those that nobody wants any more end when their requests do.

use std::collections::BTreeSet;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::sync::{Semaphore, watch};

use super::Addresses;
use crate::config::Compiled;
use crate::proxy::Proxy;
use crate::server::connection::Timers;
use crate::server::listener::is_missing_ipv6;
#[cfg(unix)]
use crate::server::unix::UnixSocket;
use crate::server::{self, Arrival, BindError, Drain, Handed, Listener, Reach, Terms, Workers};
use crate::tasks::Tasks;

/// What tells a listener from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    /// Of port 0 there may be several.
    Main(SocketAddr, usize),
    Own(SocketAddr),
    #[cfg(unix)]
    Socket(PathBuf),
}

#[derive(Debug)]
enum Socket {
    Tcp(Listener),
    #[cfg(unix)]
    Unix(UnixSocket),
}

/// The listeners that a config wants.
#[derive(Debug)]
pub(super) struct Opened {
    /// All of them.
    wanted: Vec<Key>,
    /// Those that were not open before.
    new: Vec<(Key, Socket)>,
}

/// A listener that accepts.
#[derive(Debug)]
struct Serving {
    key: Key,
    terms: watch::Sender<Terms>,
}

/// All listeners but the admin's.
#[derive(Debug)]
pub(super) struct Listeners {
    serving: Vec<Serving>,
    proxy: Arc<Proxy>,
    places: Arc<Semaphore>,
    drain: Drain,
    tasks: Tasks,
    workers: Workers,
}

impl Opened {
    /// Opens those that `compiled` wants and that `before` has not; changes nothing.
    ///
    /// # Errors
    /// [`BindError`] of the first address that is taken or not this machine's. An IPv6 loopback that this machine does not
    /// have is left out, as long as another main address remains.
    pub(super) async fn open(
        compiled: &Compiled,
        before: Option<&Listeners>,
        handed: &mut Handed,
    ) -> Result<Self, BindError> {
        let settings = &compiled.server;
        let reach = settings.reach;
        let (mut wanted, mut new) = (Vec::new(), Vec::new());
        let is_open = |key: &Key| before.is_some_and(|before| before.serving.iter().any(|serving| serving.key == *key));
        for (at, address) in settings.listen.iter().enumerate() {
            let before = settings.listen.iter().take(at);
            let key = Key::Main(*address, before.filter(|other| *other == address).count());
            if !is_open(&key) {
                match open(*address, reach, handed).await {
                    Ok(listener) => new.push((key.clone(), Socket::Tcp(listener))),
                    Err(error) if settings.listen.len() > 1 && address.is_ipv6() && is_missing_ipv6(&error.source) => {
                        tracing::warn!(%address, error = %error.source, "no IPv6 loopback here; not listening on it");
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            wanted.push(key);
        }
        #[cfg(unix)]
        for path in &settings.sockets {
            let key = Key::Socket(path.clone());
            if !is_open(&key) {
                let access = &settings.socket_access;
                let socket = match handed.unix(path) {
                    Some(socket) => UnixSocket::adopt(socket, path, access)?,
                    None => UnixSocket::bind(path, access).await?,
                };
                new.push((key.clone(), Socket::Unix(socket)));
            }
            wanted.push(key);
        }
        for address in compiled.routes.iter().filter_map(|route| route.listen).collect::<BTreeSet<_>>() {
            let key = Key::Own(address);
            if !is_open(&key) {
                new.push((key.clone(), Socket::Tcp(open(address, reach, handed).await?)));
            }
            wanted.push(key);
        }
        Ok(Self { wanted, new })
    }

    /// Where they listen. Complete before any of them serves.
    pub(super) fn addresses(&self, admin: SocketAddr, health: Option<SocketAddr>) -> Addresses {
        let mut addresses = Addresses { proxy: Vec::new(), sockets: Vec::new(), own: Vec::new(), admin, health };
        for (key, socket) in &self.new {
            match (key, socket) {
                (Key::Main(..), Socket::Tcp(listener)) => addresses.proxy.push(listener.address()),
                (Key::Own(configured), Socket::Tcp(listener)) => addresses.own.push((*configured, listener.address())),
                #[cfg(unix)]
                (Key::Socket(path), _) => addresses.sockets.push(path.clone()),
                #[cfg(unix)]
                (Key::Main(..) | Key::Own(_), Socket::Unix(_)) => {}
            }
        }
        addresses
    }
}

/// One listener, handed over or bound.
pub(super) async fn open(address: SocketAddr, reach: Reach, handed: &mut Handed) -> Result<Listener, BindError> {
    match handed.tcp(address) {
        Some(socket) => Listener::adopt(socket, address, reach),
        None => Listener::bind(address, reach).await,
    }
}

impl Listeners {
    pub(super) fn new(proxy: Arc<Proxy>, max_connections: usize, drain: Drain, tasks: Tasks, workers: Workers) -> Self {
        let places = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        Self { serving: Vec::new(), proxy, places, drain, tasks, workers }
    }

    /// Puts them in place: from now on what `opened` wants is what listens, by the terms of `settings`.
    pub(super) fn apply(&mut self, opened: Opened, settings: &server::Settings, tls: Option<&Arc<ServerConfig>>) {
        let Opened { wanted, new } = opened;
        let terms = |drain: Drain| Terms {
            timers: Timers {
                head: settings.header_timeout,
                idle: settings.idle_timeout,
                heads: settings.heads,
                buffer: settings.copy_buffer,
            },
            places: Arc::clone(&self.places),
            accept_pause: settings.accept_pause,
            tls: tls.map(Arc::clone),
            drain,
            workers: self.workers.clone(),
        };
        self.serving.retain(|Serving { key, terms: current }| {
            let drain = current.borrow().drain.clone();
            let stays = wanted.contains(key);
            if stays {
                current.send_replace(terms(drain));
            } else {
                tracing::info!(listener = %key, "no longer listening");
                drain.retire();
            }
            stays
        });
        for (key, socket) in new {
            let (current, follow) = watch::channel(terms(self.drain.part()));
            let own = match &key {
                Key::Own(configured) => Some(*configured),
                Key::Main(..) => None,
                #[cfg(unix)]
                Key::Socket(_) => None,
            };
            let proxy = Arc::clone(&self.proxy);
            let service = move |arrival: Arrival| {
                // On the heap for as long as there is a request: hyper has room for one in each connection, used or not, and
                // moves it there.
                Box::pin(Arc::clone(&proxy).serve(arrival, own))
            };
            match socket {
                Socket::Tcp(listener) => {
                    let name = if own.is_some() { "route" } else { "proxy" };
                    tracing::info!(listener = name, address = %listener.address(), "listening");
                    self.tasks.spawn("listener", listener.serve(follow, service));
                }
                #[cfg(unix)]
                Socket::Unix(socket) => {
                    tracing::info!(listener = "socket", path = %socket.path().display(), "listening");
                    self.tasks.spawn("listener", socket.serve(follow, service));
                }
            }
            self.serving.push(Serving { key, terms: current });
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Main(address, _) | Self::Own(address) => address.fmt(f),
            #[cfg(unix)]
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}
