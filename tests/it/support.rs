//! The sidecar under test, and what stands around it.

mod client;
mod collector;
mod frames;
mod ledger;
mod log;
mod metrics;
mod program;
mod wire;
mod world;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::app::{Ended, Sidecar, Surroundings};
use countersign::clock::Clock;
use countersign::config::{self, Environment, Source};
use countersign::proxy::pool::Names;
use countersign::reload::Reloader;
use countersign::server::Workers;
use standin::Authority;
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

pub(crate) use client::{Answer, Client, Piece};
pub(crate) use collector::{Collector, attribute};
pub(crate) use frames::{FrameUpstream, Frames, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM};
pub(crate) use ledger::{Done, Ledger};
pub(crate) use metrics::Metrics;
pub(crate) use program::{Program, Usage};
pub(crate) use wire::{Line, Wire};
pub(crate) use world::{Held, Plan, World, app_client, held, hold, iam, piece, seen, token, user};

/// The API's own name; `connect_to` leads it to a stand-in.
pub(crate) const API: &str = "abc123.execute-api.ap-northeast-1.amazonaws.com";
pub(crate) const REGION: &str = "ap-northeast-1";

/// Nothing here takes this long unless it hangs.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("this should have happened long ago")
}

/// Lets time pass for everything that goes by tokio's clock. Sockets are asked in real time before and after.
pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// A config in the making.
pub(crate) struct Setup {
    listen: String,
    proxy: String,
    admin: String,
    upstream: String,
    rest: String,
    environment: Vec<(String, String)>,
    secrets: Vec<String>,
    folder: TempDir,
    clock: Clock,
    names: Names,
    reloading: bool,
}

/// What the config file is called, where it is followed.
pub(crate) const CONFIG: &str = "countersign.toml";

impl Setup {
    /// Listens on free ports, and trusts `authority` besides the system's roots.
    pub(crate) fn new(authority: &Authority) -> Self {
        let folder = TempDir::new().unwrap();
        authority.write_pem(folder.path());
        let listen = "\"127.0.0.1:0\"".to_owned();
        let (proxy, admin) = (String::new(), String::new());
        let (upstream, rest) = ("ca_file = \"ca.pem\"\n".to_owned(), String::new());
        Self {
            listen,
            proxy,
            admin,
            upstream,
            rest,
            environment: Vec::new(),
            secrets: Vec::new(),
            folder,
            clock: Clock::system(),
            names: Names::system(),
            reloading: false,
        }
    }

    /// One more main listener.
    pub(crate) fn listen(mut self, address: &str) -> Self {
        self.listen.extend([", \"", address, "\""]);
        self
    }

    /// Lines of `[proxy]`.
    pub(crate) fn proxy(mut self, lines: &str) -> Self {
        self.proxy += lines;
        self.proxy.push('\n');
        self
    }

    /// Lines of `[admin]`.
    pub(crate) fn admin(mut self, lines: &str) -> Self {
        self.admin += lines;
        self.admin.push('\n');
        self
    }

    /// Lines of `[upstream]`.
    pub(crate) fn upstream(mut self, lines: &str) -> Self {
        self.upstream += lines;
        self.upstream.push('\n');
        self
    }

    /// Whole tables.
    pub(crate) fn add(mut self, tables: &str) -> Self {
        self.rest += tables;
        self.rest.push('\n');
        self
    }

    /// An environment variable whose value must never be shown.
    pub(crate) fn secret(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self.secrets.push(value.to_owned());
        self
    }

    /// A file beside the config that only its owner can read.
    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        write_private(&self.folder.path().join(name), content);
        self
    }

    /// The wall clock that signatures and expiries go by.
    pub(crate) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where upstreams' names are looked up.
    pub(crate) fn names(mut self, names: Names) -> Self {
        self.names = names;
        self
    }

    /// A file beside the config, to be named by its name alone. Its content must never be shown.
    pub(crate) fn secret_file(mut self, name: &str, content: &str) -> Self {
        write_private(&self.folder.path().join(name), content);
        self.secrets.push(content.trim_end().to_owned());
        self
    }

    /// A variable that is no secret.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The config is a file, and is taken up anew when that changes.
    pub(crate) fn reloading(mut self) -> Self {
        self.reloading = true;
        self
    }

    /// The folder of the config.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs it: on the test's own thread, whose time a test may pause, unless `workers` is set.
    pub(crate) async fn start(self) -> Countersign {
        let Self { listen, proxy, admin, upstream, rest, environment, secrets, folder, clock, names, reloading } = self;
        let log = log::Log::shared();
        let text = format!(
            "[proxy]\nlisten = [{listen}]\n{proxy}\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             health_listen = \"127.0.0.1:0\"\n{admin}\n[upstream]\n{upstream}\n{rest}"
        );
        let source = Source { name: "test".to_owned(), text, folder: folder.path().to_owned() };
        let environment = Environment::new(environment);
        let compiled = config::load(&source, &environment).unwrap_or_else(|report| panic!("{report}"));
        let said_before = log.length();
        let reload = Arc::<Notify>::default();
        let reloader = reloading.then(|| {
            let path = folder.path().join(CONFIG);
            std::fs::write(&path, &source.text).unwrap();
            Reloader::new(Some(path), &compiled, environment, Arc::clone(&reload))
        });
        let workers = compiled.server.workers.map(|number| Workers::start(number).unwrap()).unwrap_or_default();
        let surroundings = Surroundings { names, workers, ..Surroundings::new(clock) };
        let mut sidecar = Box::pin(Sidecar::bind_in(compiled, surroundings)).await.unwrap();
        if let Some(reloader) = reloader {
            sidecar = sidecar.reloading(reloader);
        }
        let addresses = sidecar.addresses();
        let (stop, stopped) = oneshot::channel();
        let (hurry, hurried) = oneshot::channel();
        let mut running = JoinSet::new();
        running.spawn(sidecar.run(told(stopped), told(hurried)));
        Countersign {
            proxy: addresses.proxy[0],
            own: addresses.own.iter().map(|(_, bound)| *bound).collect(),
            admin: addresses.admin,
            health: addresses.health.unwrap(),
            stop: Some(stop),
            hurry: Some(hurry),
            text: source.text,
            reload,
            running,
            secrets,
            own_words: OwnWords::default(),
            said_before,
            finished: false,
            folder: Arc::new(folder),
        }
    }
}

/// Writes a file at once and whole, as those who rotate secrets do.
fn write_private(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt as _;

    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Ready when told; never, when the teller is gone.
async fn told(teller: oneshot::Receiver<()>) {
    if teller.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Answers that countersign made itself, to be searched for secrets.
#[derive(Clone, Default)]
pub(crate) struct OwnWords(Arc<Mutex<String>>);

impl OwnWords {
    fn add(&self, text: &str) {
        self.0.lock().unwrap().push_str(text);
    }
}

/// A sidecar that runs.
pub(crate) struct Countersign {
    pub(crate) proxy: SocketAddr,
    /// The routes' own ports, as bound.
    pub(crate) own: Vec<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) health: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    hurry: Option<oneshot::Sender<()>>,
    /// The config that it was started with.
    pub(crate) text: String,
    reload: Arc<Notify>,
    running: JoinSet<Ended>,
    secrets: Vec<String>,
    own_words: OwnWords,
    said_before: usize,
    finished: bool,
    folder: Arc<TempDir>,
}

impl Countersign {
    /// Writes a file beside the config anew. Its content must never be shown.
    pub(crate) fn rewrite(&mut self, name: &str, content: &str) {
        self.write(name, content);
        self.hide([content.trim_end().to_owned()]);
    }

    /// A new connection to the main port.
    pub(crate) async fn connect(&self) -> Client {
        self.connect_to(self.proxy).await
    }

    /// A new connection to one of its ports.
    pub(crate) async fn connect_to(&self, address: SocketAddr) -> Client {
        Client::connect(address, self.own_words.clone()).await
    }

    /// One GET on a connection of its own.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"").await
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        self.connect().await.ask(method, target, fields, body).await
    }

    /// An admin page.
    pub(crate) async fn page(&self, path: &str) -> Answer {
        let answer = self.connect_to(self.admin).await.ask("GET", path, &[], b"").await;
        self.own_words.add(&answer.text());
        answer
    }

    /// What is counted.
    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.page("/metrics").await.text())
    }

    /// Waits until what is counted satisfies `condition`.
    pub(crate) async fn until(&self, condition: impl Fn(&Metrics) -> bool) -> Metrics {
        within(async {
            loop {
                let metrics = self.metrics().await;
                if condition(&metrics) {
                    return metrics;
                }
            }
        })
        .await
    }

    /// Waits until no credential is in its first try.
    pub(crate) async fn until_ready(&self) {
        within(async { while self.page("/readyz").await.status != 200 {} }).await;
    }

    /// Writes a file beside the config anew.
    pub(crate) fn write(&self, name: &str, content: &str) {
        write_private(&self.folder.path().join(name), content);
    }

    /// Has `text` take the place of the config, as SIGHUP does; returns what is counted once it is judged.
    pub(crate) async fn reload(&self, text: &str) -> Metrics {
        let judged = |metrics: &Metrics| metrics.count("countersign_config_reloads_total", &[]);
        let before = judged(&self.metrics().await);
        self.write(CONFIG, text);
        self.reload.notify_one();
        self.until(|metrics| judged(metrics) > before).await
    }

    /// The folder of the config.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps that folder after the end.
    pub(crate) fn keep_folder(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    /// What was logged since the start, by all tests of this process.
    pub(crate) fn log(&self) -> String {
        log::Log::shared().since(self.said_before)
    }

    /// The line of the access log that has this request id.
    pub(crate) async fn access_line(&self, request_id: &str) -> serde_json::Value {
        let find = || {
            let lines = self.log();
            let line = lines.lines().find(|line| line.contains("\"access\"") && line.contains(request_id));
            line.map(|line| serde_json::from_str(line).unwrap())
        };
        within(async {
            loop {
                if let Some(line) = find() {
                    return line;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// More that must not be shown.
    pub(crate) fn hide(&mut self, secrets: impl IntoIterator<Item = String>) {
        self.secrets.extend(secrets);
    }

    /// Asks it to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Asks it not to wait.
    pub(crate) fn hurry(&mut self) {
        self.hurry.take().unwrap().send(()).unwrap();
    }

    /// Waits until it has stopped.
    pub(crate) async fn ended(&mut self) -> Ended {
        within(self.running.join_next()).await.expect("it was running").expect("it did not panic")
    }

    /// Stops it, without waiting for the quiet that a drain wants, and searches for secrets.
    pub(crate) async fn finish(mut self) {
        self.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 0).await;
        let _readiness = self.page("/readyz").await;
        self.stop();
        self.hurry();
        assert_eq!(self.ended().await, Ended { cut: 0 });
        self.finish_stopped();
    }

    /// Searches for secrets, after a stop of the test's own.
    pub(crate) fn finish_stopped(mut self) {
        self.finished = true;
        assert!(self.running.is_empty(), "it still runs");
        let log = self.log();
        let words = std::mem::take(&mut *self.own_words.0.lock().unwrap());
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            for form in [secret.clone(), STANDARD.encode(secret)] {
                assert!(!log.contains(&form), "a secret is in the log: {form}");
                assert!(!words.contains(&form), "a secret is in a page or an answer: {form}");
            }
        }
    }
}

impl Drop for Countersign {
    fn drop(&mut self) {
        assert!(self.finished || std::thread::panicking(), "the test forgot to finish");
    }
}

#[tokio::test]
#[should_panic(expected = "a secret is in the log: leaked-on-purpose-01")]
async fn a_secret_in_the_log_fails_its_test() {
    let world = Plan::open().secret("LEAK", "leaked-on-purpose-01").start().await;
    tracing::trace!(value = "leaked-on-purpose-01", "on purpose");
    world.finish().await;
}

#[tokio::test]
#[should_panic(expected = "a secret is in a page or an answer: requests_in_flight")]
async fn a_secret_in_a_page_fails_its_test() {
    // The name of a metric stands in for one.
    let world = Plan::open().secret("LEAK", "requests_in_flight").start().await;
    world.finish().await;
}
