//! The store that is Redis or Valkey: one server, or the nodes of a cluster.
//!
//! Each step is one script, so that it is atomic and takes one round trip; both keys of a slot carry its name as their hash
//! tag, so a cluster keeps them on one node. A connection is made when it is wanted and kept for seconds: a token is wanted
//! once an hour, and thousands of idle connections would be the store's burden. Dialled as written and through no proxy, as
//! HTTP proxies do not lead to a Redis. Imports `secret`, `tasks`, `tls`, `route`.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisConnectionInfo, RedisError};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use super::sealing::LARGEST_ENTRY;
use super::store::{Held, Lease, Looked, Sealed, Store, StoreError, Taken};
use crate::auth::secrets::SecretReader;
use crate::auth::spec::SecretSource;
use crate::route::upstream::HostPort;
use crate::secret::Secret;
use crate::tasks::Tasks;
use crate::tls::ClientSettings;

/// A connection that nobody uses is closed after this: longer than any pause between the steps of one fetch.
const IDLE: Duration = Duration::from_secs(10);
/// How often a call may be sent on: to a node, over a new connection, to the node that this one names, and once more.
const MOST_TRIES: usize = 4;
/// How long what [`Store::probe`] writes is kept.
const PROBE_MILLIS: u64 = 1000;

/// What the entry is, for how long, and whether the lease is free (0), held (1) or resting (2). What is no text is garbage
/// that no other step could take away.
const LOOK: &str = "\
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'string' then redis.call('DEL', KEYS[1]) return {'?', -1, 0} end
local lease = string.sub(redis.call('GET', KEYS[2]) or '', 1, 1)
return {redis.call('GETRANGE', KEYS[1], 0, ARGV[1]), redis.call('PTTL', KEYS[1]), lease == '' and 0 or lease == 'r' and 2 or 1}";
const TAKE: &str = "\
if redis.call('TYPE', KEYS[1]).ok ~= 'none' and redis.call('GETRANGE', KEYS[1], 0, ARGV[1]) ~= ARGV[2] then return 2 end
if redis.call('SET', KEYS[2], ARGV[3], 'NX', 'PX', ARGV[4]) then return 1 end
return 0";
const EXTEND: &str = "\
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[2], ARGV[2])";
const REST: &str = "\
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], 'r', 'PX', ARGV[2])
return 1";
const PUBLISH: &str = "\
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1";
const OFFER: &str = "\
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0";
const DISCARD: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])";
const PROBE: &str = "\
redis.call('GET', KEYS[1])
redis.call('SET', KEYS[2], 'l', 'PX', ARGV[1])
return 1";

/// Where the store is, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The server, or any node of the cluster.
    pub server: HostPort,
    /// How it is connected to.
    pub transport: Transport,
    /// The database that is selected; 0 in a cluster.
    pub database: u32,
    /// Who we are there; `None` is the default user.
    pub username: Option<SecretSource>,
    /// And how that is shown.
    pub password: Option<SecretSource>,
    /// Whether there is more than one node.
    pub layout: Layout,
    /// In front of all keys.
    pub prefix: String,
    /// What the calls of one fetch may take together.
    pub timeout: Duration,
}

/// How a store is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `redis://`, on loopback alone.
    Plain,
    /// `rediss://`.
    Tls(ClientSettings),
}

/// Where it is, without the login.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Plain => "redis",
            Transport::Tls(_) => "rediss",
        };
        write!(f, "{scheme}://{}", self.server)?;
        match (self.layout, self.database) {
            (Layout::Cluster, _) => f.write_str(", a cluster"),
            (Layout::Single, 0) => Ok(()),
            (Layout::Single, number) => write!(f, "/{number}"),
        }
    }
}

/// Whether there is more than one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One server, or one name for the primary of several.
    Single,
    /// Nodes that send us on to each other.
    Cluster,
}

/// A Redis or Valkey.
pub struct Nodes {
    shown: String,
    server: HostPort,
    database: u32,
    layout: Layout,
    prefix: String,
    tls: Option<TlsConnector>,
    username: Option<Login>,
    password: Option<Login>,
    tasks: Tasks,
    links: Arc<Mutex<Links>>,
    /// The nodes that slots are on, as far as we were sent on.
    moved: Mutex<HashMap<String, HostPort>>,
}

/// A part of the login, as it was read last.
struct Login {
    reader: SecretReader,
    read: Mutex<Option<Secret>>,
}

#[derive(Default)]
struct Links {
    by_node: HashMap<HostPort, Link>,
    made: u64,
}

struct Link {
    number: u64,
    connection: MultiplexedConnection,
    used: Instant,
}

/// How a call was answered.
enum Answered<T> {
    Well(T),
    /// Another node has the slot.
    Elsewhere(HostPort),
    /// The connection, or the node, is not what it was.
    Stale(StoreError),
    Badly(StoreError),
}

impl Login {
    fn new(reader: SecretReader) -> Self {
        Self { reader, read: Mutex::default() }
    }

    async fn prepare(&self, anew: bool) -> Result<(), StoreError> {
        if anew || self.known().is_none() {
            let secret = self.reader.read().await.map_err(StoreError::Login)?;
            *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
        }
        Ok(())
    }

    fn known(&self) -> Option<Secret> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Nodes {
    /// The store of `settings`; over TLS with `tls`, which must fit their transport. `username` and `password` read theirs.
    pub fn new(
        settings: &Settings,
        tls: Option<Arc<rustls::ClientConfig>>,
        [username, password]: [Option<SecretReader>; 2],
        tasks: Tasks,
    ) -> Self {
        let Settings { server, database, layout, prefix, .. } = settings.clone();
        let tls = tls.map(TlsConnector::from);
        let [username, password] = [username.map(Login::new), password.map(Login::new)];
        let (links, moved) = (Arc::default(), Mutex::default());
        let shown = settings.to_string();
        Self { shown, server, database, layout, prefix, tls, username, password, tasks, links, moved }
    }

    /// A script over both keys of a slot.
    fn script(&self, script: &str, slot: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        let key = |part: &str| format!("{}:{{{slot}}}:{part}", self.prefix);
        command.arg(script).arg(2).arg(key("token")).arg(key("lease"));
        command
    }

    async fn run<T: FromRedisValue>(&self, slot: &str, command: &Cmd) -> Result<T, StoreError> {
        let mut node = self.moved().get(slot).cloned().unwrap_or_else(|| self.server.clone());
        let mut stale = None;
        for _ in 0..MOST_TRIES {
            match self.ask(&node, command).await {
                Answered::Well(answer) => return Ok(answer),
                Answered::Badly(error) => return Err(error),
                Answered::Elsewhere(other) => {
                    self.moved().insert(slot.to_owned(), other.clone());
                    node = other;
                }
                Answered::Stale(error) => {
                    // Who may have taken its place is known to the others.
                    self.moved().remove(slot);
                    node = self.server.clone();
                    stale = Some(error);
                }
            }
        }
        Err(stale.unwrap_or_else(|| StoreError::refused(&node, "MOVED", "its nodes send us round in circles")))
    }

    async fn ask<T: FromRedisValue>(&self, node: &HostPort, command: &Cmd) -> Answered<T> {
        let (mut connection, used_before) = match self.link(node).await {
            Ok(link) => link,
            Err(error) if *node == self.server => return Answered::Badly(error),
            Err(error) => return Answered::Stale(error),
        };
        let error = match command.query_async::<T>(&mut connection).await {
            Ok(answer) => return Answered::Well(answer),
            Err(error) => error,
        };
        if error.code() == Some("MOVED") && self.layout == Layout::Cluster {
            return match moved_to(&error, node) {
                Some(other) => Answered::Elsewhere(other),
                None => Answered::Badly(StoreError::Malformed { server: node.clone() }),
            };
        }
        // The connection is over, or its name may lead to another server by now.
        let is_stale = error.is_io_error()
            || error.is_connection_dropped()
            || matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "LOADING"));
        let is_new = !used_before && *node == self.server;
        let words = in_words(node, &error);
        if !is_stale {
            return Answered::Badly(words);
        }
        self.forget(node);
        if is_new { Answered::Badly(words) } else { Answered::Stale(words) }
    }

    /// A connection to `node`, and whether it was used before.
    async fn link(&self, node: &HostPort) -> Result<(MultiplexedConnection, bool), StoreError> {
        if let Some(link) = self.links().by_node.get_mut(node) {
            link.used = Instant::now();
            return Ok((link.connection.clone(), true));
        }
        let connection = self.connect(node).await?;
        Ok((connection, false))
    }

    async fn connect(&self, node: &HostPort) -> Result<MultiplexedConnection, StoreError> {
        let unreachable = |source| StoreError::Unreachable { server: node.clone(), source };
        let tcp = dial(node).await.map_err(unreachable)?;
        let mut connection = match &self.tls {
            None => self.attend(node, tcp).await?,
            Some(tls) => {
                let failed = |source| StoreError::Tls { server: node.clone(), source };
                let name = ServerName::try_from(node.host.clone())
                    .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
                let stream = tls.connect(name, tcp).await.map_err(failed)?;
                self.attend(node, stream).await?
            }
        };
        if let Some(password) = self.password.as_ref().and_then(Login::known) {
            let mut auth = redis::cmd("AUTH");
            if let Some(username) = self.username.as_ref().and_then(Login::known) {
                auth.arg(username.expose());
            }
            let answer = auth.arg(password.expose()).query_async::<()>(&mut connection).await;
            answer.map_err(|error| in_words(node, &error))?;
        }
        if self.database != 0 {
            let answer = redis::cmd("SELECT").arg(self.database).query_async::<()>(&mut connection).await;
            answer.map_err(|error| in_words(node, &error))?;
        }
        let mut links = self.links();
        links.made += 1;
        let link = Link { number: links.made, connection: connection.clone(), used: Instant::now() };
        let number = link.number;
        links.by_node.insert(node.clone(), link);
        drop(links);
        self.close_when_idle(node.clone(), number);
        Ok(connection)
    }

    /// Speaks the protocol over `stream`, until no handle to it is left.
    async fn attend(
        &self,
        node: &HostPort,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<MultiplexedConnection, StoreError> {
        // Its own login would hide the server's word for a refusal; its limits are our caller's.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let made = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (connection, driver) = made.map_err(|error| in_words(node, &error))?;
        self.tasks.spawn("token-cache-connection", driver);
        Ok(connection)
    }

    fn close_when_idle(&self, node: HostPort, number: u64) {
        let links = Arc::downgrade(&self.links);
        self.tasks.spawn("token-cache-idle", async move {
            loop {
                sleep(IDLE).await;
                let Some(links) = links.upgrade() else { return };
                let mut links = links.lock().unwrap_or_else(PoisonError::into_inner);
                match links.by_node.get(&node) {
                    Some(link) if link.number == number && link.used.elapsed() < IDLE => {}
                    Some(link) if link.number == number => {
                        links.by_node.remove(&node);
                        return;
                    }
                    Some(_) | None => return,
                }
            }
        });
    }

    fn forget(&self, node: &HostPort) {
        self.links().by_node.remove(node);
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self) -> MutexGuard<'_, HashMap<String, HostPort>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Nodes {
    async fn prepare(&self, anew: bool) -> Result<(), StoreError> {
        for login in self.username.iter().chain(&self.password) {
            login.prepare(anew).await?;
        }
        Ok(())
    }

    async fn look(&self, slot: &str) -> Result<Looked, StoreError> {
        let mut command = self.script(LOOK, slot);
        // The last byte that is sent is one too many for any entry.
        let (sealed, left, lease): (Vec<u8>, i64, u8) = self.run(slot, command.arg(LARGEST_ENTRY)).await?;
        let lease = match lease {
            0 => Held::Free,
            1 => Held::Fetching,
            _ => Held::Resting,
        };
        Ok(Looked { sealed, left: u64::try_from(left).ok().map(Duration::from_millis), lease })
    }

    async fn take(&self, slot: &str, seen: &[u8], lease: Lease<'_>) -> Result<Taken, StoreError> {
        let mut command = self.script(TAKE, slot);
        command.arg(LARGEST_ENTRY).arg(seen).arg(lease.fence).arg(millis(lease.life));
        Ok(match self.run(slot, &command).await? {
            1_u8 => Taken::Ours,
            2 => Taken::Changed,
            _ => Taken::Others,
        })
    }

    async fn extend(&self, slot: &str, lease: Lease<'_>) -> Result<bool, StoreError> {
        self.run(slot, self.script(EXTEND, slot).arg(lease.fence).arg(millis(lease.life))).await
    }

    async fn rest(&self, slot: &str, fence: &str, pause: Duration) -> Result<bool, StoreError> {
        self.run(slot, self.script(REST, slot).arg(fence).arg(millis(pause))).await
    }

    async fn publish(&self, slot: &str, fence: &str, entry: Sealed<'_>) -> Result<bool, StoreError> {
        self.run(slot, self.script(PUBLISH, slot).arg(fence).arg(entry.bytes).arg(millis(entry.life))).await
    }

    async fn offer(&self, slot: &str, entry: Sealed<'_>) -> Result<bool, StoreError> {
        self.run(slot, self.script(OFFER, slot).arg(entry.bytes).arg(millis(entry.life))).await
    }

    async fn discard(&self, slot: &str, sealed: &[u8]) -> Result<bool, StoreError> {
        self.run(slot, self.script(DISCARD, slot).arg(sealed)).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        // A slot of its own; in a cluster, where the others are is seen when they are used.
        let slot = "probe";
        let _one: u8 = self.run(slot, self.script(PROBE, slot).arg(PROBE_MILLIS)).await?;
        Ok(())
    }

    fn reset(&self) {
        self.links().by_node.clear();
        self.moved().clear();
    }

    fn slow(&self, limit: Duration) -> StoreError {
        StoreError::TimedOut { server: self.server.clone(), limit }
    }

    fn describe(&self) -> String {
        self.shown.clone()
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("store", &self.shown).finish_non_exhaustive()
    }
}

/// A connection to one of the addresses of `node`, in the order in which they are found.
async fn dial(node: &HostPort) -> io::Result<TcpStream> {
    let HostPort { host, port } = node;
    let addresses: Vec<SocketAddr> = if let Ok(address) = host.parse::<IpAddr>() {
        vec![SocketAddr::new(address, *port)]
    } else if host == "localhost" || host.ends_with(".localhost") {
        // RFC 6761 6.3; an image without /etc/hosts would ask a name server for it.
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        loopback.map(|address| SocketAddr::new(address, *port)).to_vec()
    } else {
        lookup_host((host.as_str(), *port)).await?.collect()
    };
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // A command is written whole; waiting to fill a packet would only add latency.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The node that `error` of `node` names: `MOVED 3999 10.0.0.1:6381`, without a host where that is the same.
fn moved_to(error: &RedisError, node: &HostPort) -> Option<HostPort> {
    let (address, _slot) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() { node.host.clone() } else { host.to_owned() };
    Some(HostPort { host, port: port.parse().ok()? })
}

fn in_words(node: &HostPort, error: &RedisError) -> StoreError {
    let server = node.clone();
    if error.is_io_error() || error.is_connection_dropped() {
        return StoreError::Unreachable { server, source: io::Error::other(error.to_string()) };
    }
    match error.code() {
        Some(code) => StoreError::refused(node, code, error.detail().unwrap_or_default()),
        None => StoreError::Malformed { server },
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
