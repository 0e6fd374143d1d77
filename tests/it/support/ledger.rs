//! Both sides of every request: clients and an API that number them, and what must come out even.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt as _;
use standin::Responder;
use standin::body::full;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{Answer, Client, OwnWords};

/// The field that carries a request's number.
const NUMBER: &str = "x-number";
/// Every so many-th client leaves as soon as it has asked.
const LEAVES: u64 = 41;

/// What the API has done, by the number of the request.
#[derive(Clone, Default)]
pub(crate) struct Done(Arc<Mutex<HashMap<u64, u32>>>);

impl Done {
    /// An API that takes note of each request it has read whole, and answers with its number.
    pub(crate) fn responder(&self) -> Responder {
        let done = self.clone();
        Arc::new(move |request, _principal| {
            let done = done.clone();
            Box::pin(async move {
                let number: u64 = request.headers()[NUMBER].to_str().unwrap().parse().unwrap();
                let method = request.method().clone();
                // A body that broke off was no request.
                let Ok(body) = request.into_body().collect().await else { std::future::pending().await };
                assert_eq!(
                    body.to_bytes().len(),
                    upload(method.as_str(), number).len(),
                    "a part was taken for the whole"
                );
                *done.0.lock().unwrap().entry(number).or_default() += 1;
                Response::new(full(answer(number)))
            })
        })
    }
}

/// What has become of the requests.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sent: AtomicU64,
    delivered: AtomicU64,
    /// By countersign's own error code.
    marked: Mutex<HashMap<String, u64>>,
    /// An upstream's own refusals, delivered whole.
    refused: AtomicU64,
    /// The answer broke off where a client can see it.
    cut: AtomicU64,
    left: AtomicU64,
    /// The one answered last.
    latest: Mutex<Option<Instant>>,
    /// The longest that one took.
    slowest: Mutex<Duration>,
    stopping: AtomicBool,
    /// Numbers of requests that must be done once at most, and of those, the ones that were answered.
    once: Mutex<Vec<(u64, bool)>>,
}

fn method(number: u64) -> &'static str {
    ["GET", "POST", "PUT", "POST", "DELETE", "PATCH"][usize::try_from(number % 6).unwrap()]
}

fn upload(method: &str, number: u64) -> Vec<u8> {
    match method {
        "POST" | "PUT" | "PATCH" => vec![b'u'; usize::try_from(number % 7 * 3_000).unwrap()],
        _ => Vec::new(),
    }
}

fn answer(number: u64) -> Vec<u8> {
    format!("{number};").repeat(usize::try_from(number % 5 * 300 + 1).unwrap()).into_bytes()
}

impl Ledger {
    /// Has `clients` ask for `path`, `rate` times a second together, until [`Ledger::stop`].
    pub(crate) fn open(
        self: &Arc<Self>,
        proxy: SocketAddr,
        path: &'static str,
        clients: u32,
        rate: u32,
    ) -> JoinSet<()> {
        let mut asking = JoinSet::new();
        let pause = Duration::from_secs(1) * clients / rate;
        for _ in 0..clients {
            let ledger = Arc::clone(self);
            asking.spawn(async move {
                let mut kept = None;
                let mut due = Instant::now();
                while !ledger.stopping.load(Ordering::Relaxed) {
                    due = (due + pause).max(Instant::now());
                    sleep_until(due).await;
                    kept = ledger.ask(proxy, path, kept).await;
                }
            });
        }
        asking
    }

    async fn ask(&self, proxy: SocketAddr, path: &str, kept: Option<Client>) -> Option<Client> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let method = method(number);
        let mut client = match kept {
            Some(client) => client,
            None => Client::connect(proxy, OwnWords::default()).await,
        };
        let begun = Instant::now();
        let (digits, body) = (number.to_string(), upload(method, number));
        client.writer.request(method, path, &[(NUMBER, &digits)], &body).await;
        if number % LEAVES == LEAVES - 1 {
            self.left.fetch_add(1, Ordering::Relaxed);
            self.once.lock().unwrap().push((number, false));
            return None;
        }
        let answer = client.reader.answer(method).await;
        let is_delivered = self.book(number, &answer);
        if !matches!(method, "GET" | "PUT" | "DELETE") {
            self.once.lock().unwrap().push((number, is_delivered));
        }
        {
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = slowest.max(begun.elapsed());
        }
        let is_kept = answer.whole && answer.header("connection") != Some("close");
        is_kept.then_some(client)
    }

    fn book(&self, number: u64, got: &Answer) -> bool {
        if let Some(code) = got.code() {
            *self.marked.lock().unwrap().entry(code.to_owned()).or_default() += 1;
            return false;
        }
        if !got.whole {
            self.cut.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if got.status == 403 {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        assert_eq!(got.status, 200, "{}", got.text());
        assert_eq!(got.body, answer(number), "the answer to another request");
        self.delivered.fetch_add(1, Ordering::Relaxed);
        *self.latest.lock().unwrap() = Some(Instant::now());
        true
    }

    /// Answers delivered whole so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Requests sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Those that countersign answered itself, by code.
    pub(crate) fn marked(&self) -> HashMap<String, u64> {
        self.marked.lock().unwrap().clone()
    }

    /// Answers that broke off.
    pub(crate) fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Refusals of the upstream's own, delivered whole.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// All of it, in a line.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} sent, {} delivered, {} refused, {:?}, {} cut, slowest {:?}",
            self.sent(),
            self.delivered(),
            self.refused(),
            self.marked(),
            self.cut(),
            self.slowest()
        )
    }

    /// The longest that a request took.
    pub(crate) fn slowest(&self) -> Duration {
        *self.slowest.lock().unwrap()
    }

    /// Ends the asking once all answers are there.
    pub(crate) async fn close(&self, mut asking: JoinSet<()>) {
        self.stopping.store(true, Ordering::Relaxed);
        while let Some(asked) = asking.join_next().await {
            asked.expect("a request got no answer, or a wrong one");
        }
    }

    /// Sent = delivered (refusals, too) + marked + cut + left, and nothing that must not be was done twice. What was answered was done.
    pub(crate) fn balance(&self, done: &Done) {
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let marked: u64 = self.marked.lock().unwrap().values().sum();
        let remainder = number(&self.sent)
            .checked_sub(self.delivered() + self.refused() + marked + self.cut() + number(&self.left));
        assert_eq!(remainder, Some(0), "{self:?}");
        let done = done.0.lock().unwrap();
        for (asked, is_delivered) in &*self.once.lock().unwrap() {
            let times = done.get(asked).copied().unwrap_or_default();
            let method = method(*asked);
            if !matches!(method, "GET" | "PUT" | "DELETE") {
                assert!(times <= 1, "{method} {asked} was done {times} times");
            }
            assert!(!is_delivered || times == 1, "{method} {asked} was answered, and done {times} times");
        }
    }
}
