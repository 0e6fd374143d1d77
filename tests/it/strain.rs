//! More than it can take, by people who mean harm or by accident: docs/rules.md 3.2.
//!
//! Each in two sizes: a small one for every run, and one that takes long, which prints its figures
//! (`make strain`). The program runs in a process of its own, whose memory and descriptors are looked at.

mod hurdles;
mod slow;

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use standin::body::full;
use standin::{AccessKeys, Alpn, Authority, Authorizer, Gateway, Responder};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::support::{API, Client, OwnWords, Program, Usage, iam, user};

const KIB: u64 = 1024;
const MIB: usize = 1024 * 1024;
const SECRET: &str = "strain-secret-90d1";

/// The program between clients and two APIs, each with a route of its own: all goes well at `/`, and `/hurt` is where
/// trouble is made.
struct Site {
    program: Program,
    folder: TempDir,
    _well: Gateway,
    hurt: Gateway,
}

/// A site in the making.
struct Plan {
    proxy: String,
    upstream: String,
    signed: bool,
    hurt: Option<Responder>,
    /// Of a shell, which runs the program.
    line: String,
}

impl Plan {
    /// With lines of `[proxy]`.
    fn new(proxy: &str) -> Self {
        Self {
            proxy: proxy.to_owned(),
            upstream: String::new(),
            signed: false,
            hurt: None,
            line: "exec \"$@\"".to_owned(),
        }
    }

    fn upstream(self, lines: &str) -> Self {
        Self { upstream: lines.to_owned(), ..self }
    }

    /// How `/hurt` answers, unless at once.
    fn hurt(self, responder: Responder) -> Self {
        Self { hurt: Some(responder), ..self }
    }

    /// `/hurt` wants a signature.
    fn signed(self) -> Self {
        Self { signed: true, ..self }
    }

    fn line(self, line: &str) -> Self {
        Self { line: line.to_owned(), ..self }
    }

    async fn start(self) -> Site {
        let Self { proxy, upstream, signed, hurt, line } = self;
        let (authority, keys) = (Authority::new(), AccessKeys::new());
        keys.add(user("AKIDSTRAIN", SECRET));
        // Streams of HTTP/2 would share a connection, and the time that one of them takes.
        let api = || Gateway::builder().tls(&authority, &[API]).alpn(Alpn::Http1);
        let authorizer = if signed { iam(&keys) } else { Authorizer::Open };
        let mut hurting = api().method("/prod", authorizer);
        if let Some(responder) = hurt {
            hurting = hurting.respond("/prod", responder);
        }
        let (hurt, well) = (hurting.start().await, api().method("/prod", Authorizer::Open).start().await);
        let folder = TempDir::new().unwrap();
        // Whoever the program runs as.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        authority.write_pem(folder.path());
        let auth = if signed { "keys" } else { "none" };
        let config = format!(
            "[proxy]\nlisten = [\"127.0.0.1:0\"]\n{proxy}\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\naccess = false\n\
             [upstream]\nca_file = \"ca.pem\"\n{upstream}\n[auth.keys]\nkind = \"sigv4\"\ncredentials = {{ static = \
             {{ access_key_id = {{ value = \"AKIDSTRAIN\" }}, secret_access_key = {{ value = \"{SECRET}\" }} }} }}\n\
             [[route]]\nname = \"well\"\nauth = \"none\"\nupstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{}\"\n\
             [[route]]\nname = \"hurt\"\npath = \"/hurt\"\nstrip_path = true\nauth = \"{auth}\"\n\
             upstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{}\"\n",
            well.port(),
            hurt.port()
        );
        std::fs::write(folder.path().join("countersign.toml"), config).unwrap();
        let program = Program::start_by(folder.path(), &line).await;
        Site { program, folder, _well: well, hurt }
    }
}

impl Site {
    async fn client(&self) -> Client {
        Client::connect(self.program.proxy, OwnWords::default()).await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Whether it answers probes, and how long that takes.
    async fn health(&self) -> Duration {
        let begun = Instant::now();
        let page = Client::connect(self.program.admin, OwnWords::default()).await.get("/livez").await;
        assert_eq!(page.status, 200);
        begun.elapsed()
    }

    /// Asks `/` at a steady pace, until told, on a few connections that stay open; every answer must be there.
    async fn ask_steadily(&self) -> Steady {
        const CLIENTS: usize = 4;
        let (over, mut asking) = (Arc::<AtomicBool>::default(), JoinSet::new());
        for _ in 0..CLIENTS {
            let (mut client, over) = (self.client().await, Arc::clone(&over));
            assert_eq!(client.get("/").await.status, 200);
            asking.spawn(async move {
                let (mut due, mut taken) = (Instant::now(), Vec::new());
                while !over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let answer = client.get("/").await;
                    assert_eq!(answer.verdict(), (200, "none"), "{}", answer.text());
                    taken.push(begun.elapsed());
                    due = (due + Duration::from_millis(20)).max(Instant::now());
                    sleep_until(due).await;
                }
                taken
            });
        }
        Steady { over, asking }
    }
}

/// The most that it may use with so many connections and requests in flight, and so much held (docs/rules.md 3.2).
fn assert_formula(usage: Usage, connections: usize, in_flight: usize, held: usize) {
    // Code that was compiled for debugging is larger; its own size is no part of what is looked at.
    let base = if cfg!(debug_assertions) { 48 * KIB } else { 24 * KIB };
    let most = base + 48 * connections as u64 + 192 * in_flight as u64 + held as u64 / KIB;
    println!("resident {} KiB of {most} KiB, {} descriptors", usage.resident, usage.descriptors);
    assert!(usage.resident <= most, "{usage:?}, {most} KiB at most");
}

/// Requests that go well all the while.
struct Steady {
    over: Arc<AtomicBool>,
    asking: JoinSet<Vec<Duration>>,
}

/// How long they took.
#[derive(Clone, Copy, Debug)]
struct Pace {
    requests: usize,
    median: Duration,
    p99: Duration,
    longest: Duration,
}

impl Steady {
    async fn end(mut self) -> Pace {
        self.over.store(true, Ordering::Relaxed);
        let mut taken = Vec::new();
        while let Some(asked) = self.asking.join_next().await {
            taken.extend(asked.expect("a request that should have gone well"));
        }
        Pace::of(taken)
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, median, p99, longest } = self;
        write!(f, "{requests} requests, median {median:?}, p99 {p99:?}, longest {longest:?}")
    }
}

impl Pace {
    fn of(mut taken: Vec<Duration>) -> Self {
        taken.sort();
        let at = |share: usize| taken[(taken.len() * share / 1000).min(taken.len() - 1)];
        Self { requests: taken.len(), median: at(500), p99: at(990), longest: at(1000) }
    }
}

/// Answers that never come.
fn never() -> Responder {
    Arc::new(|_request, _principal| Box::pin(std::future::pending()))
}

/// An answer of this size.
fn large(bytes: usize) -> Responder {
    // One for all: hundreds of them are asked for at once, of a processor that is measured.
    let bytes = Bytes::from(vec![b'l'; bytes]);
    Arc::new(move |_request, _principal| {
        let bytes = bytes.clone();
        Box::pin(async move { Response::new(full(bytes)) })
    })
}

/// As [`large`], some moments later.
fn late(pause: Duration, bytes: usize) -> Responder {
    Arc::new(move |_request, _principal| {
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            Response::new(full(vec![b'l'; bytes]))
        })
    })
}
