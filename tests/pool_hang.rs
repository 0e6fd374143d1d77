//! A connection that its server closes just as it is reused: every send must end, and what is told of it must be right.
//!
//! The upstream is a raw socket that answers, waits a moment and closes; the client's moments vary around that one. No
//! timer has so fine a grain, so both sides count turns of the runtime instead of sleeping.

#![cfg(test)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign::message::body::{OutboundBody, Upload};
use countersign::proxy::pool::{Connections, Names, Pool, Reuse, Sent};
use countersign::route::Origin;
use countersign::route::upstream::{Answers, HostPort};
use countersign::tasks::Tasks;
use countersign::tls::{ClientSettings, SystemRoots};
use http::uri::{Authority, Scheme};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::timeout;

/// No send on loopback takes as long.
const HANGS: Duration = Duration::from_secs(4);
/// Requests of a run: enough that hundreds meet a closing connection.
const REQUESTS: usize = 8_000;
/// How many moments are tried, on either side; both numbers are prime, so that all pairs come up.
const SERVER_MOMENTS: usize = 97;
const CLIENT_MOMENTS: usize = 89;

/// How the sends of a run ended.
#[derive(Debug, Default, Clone, Copy)]
struct Outcomes {
    answered: usize,
    answered_reused: usize,
    unsent: usize,
    on_reused: usize,
}

impl Outcomes {
    /// Takes down one. The first request of a connection may not fail.
    fn record(&mut self, reused: bool, failed: Option<&Sent>) {
        match failed {
            None if reused => self.answered_reused += 1,
            None => self.answered += 1,
            Some(Sent::Nothing(_)) => self.unsent += 1,
            Some(Sent::OnReusedConnection) => self.on_reused += 1,
            Some(Sent::Something | Sent::Unprocessed) => panic!("the first request of a connection failed"),
        }
    }

    fn check(self) {
        println!("{self:?}");
        let Self { answered, answered_reused, unsent, on_reused } = self;
        assert_eq!(answered + answered_reused + unsent + on_reused, REQUESTS);
        assert!(answered > REQUESTS / 20 && answered_reused > REQUESTS / 20, "{self:?}");
        assert!(unsent + on_reused > 0, "no send met a closing connection: {self:?}");
    }
}

async fn turns(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// Answers two requests of a connection at most, waits for some turns after each and then does not look any more.
async fn upstream(tasks: Tasks, listener: TcpListener) {
    for number in 0.. {
        let (mut stream, _) = listener.accept().await.unwrap();
        tasks.spawn("upstream", async move {
            let mut received = [0; 4_096];
            for _ in 0..=number % 2 {
                let read = stream.read(&mut received).await.unwrap_or_default();
                if read == 0 || stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
            }
            turns(number % SERVER_MOMENTS).await;
        });
    }
}

/// The pool's connections to an upstream that runs on `tasks`.
async fn connections(tasks: &Tasks) -> (Pool, Arc<Connections>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("upstreams", upstream(tasks.clone(), listener));
    connections_to(tasks, address)
}

fn connections_to(tasks: &Tasks, address: SocketAddr) -> (Pool, Arc<Connections>) {
    let minute = Duration::from_mins(1);
    let origin = Origin {
        scheme: Scheme::HTTP,
        authority: Authority::from_static("upstream.test"),
        dial: HostPort { host: address.ip().to_string(), port: address.port() },
        via: None,
        server_name: "upstream.test".into(),
        tls: ClientSettings::default(),
        dns_timeout: minute,
        connect_timeout: minute,
        ping_interval: minute,
        ping_timeout: minute,
        tls_timeout: minute,
        pool_idle_timeout: minute,
        max_connection_age: minute,
        answers: Answers::default(),
    };
    let pool = Pool::new(SystemRoots::load(), tasks.clone(), Names::system());
    let connections = pool.origin(&origin).unwrap();
    (pool, connections)
}

/// One exchange through the pool; its outcome goes to `outcomes`.
async fn exchange(connections: &Arc<Connections>, body: OutboundBody, outcomes: &Mutex<Outcomes>) {
    let checkout = Box::pin(connections.checkout(Reuse::Allowed)).await.unwrap();
    let reused = checkout.is_reused();
    let request = Request::post("/").header("host", "upstream.test").body(body).unwrap();
    let Ok(sent) = timeout(HANGS, Box::pin(checkout.send(request))).await else {
        panic!("a send hangs, on a connection that was used before: {reused}; so far {outcomes:?}");
    };
    outcomes.lock().unwrap().record(reused, sent.as_ref().err().map(|failed| &failed.sent));
    if let Ok(response) = sent {
        let body = timeout(HANGS, response.into_body().collect()).await.expect("a body hangs");
        assert_eq!(body.unwrap().to_bytes(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_body_never_hangs_on_a_connection_that_closes() {
    let tasks = Tasks::default();
    let (_pool, connections) = connections(&tasks).await;
    let outcomes = Mutex::new(Outcomes::default());
    for number in 0..REQUESTS {
        exchange(&connections, OutboundBody::empty(), &outcomes).await;
        turns(number % CLIENT_MOMENTS).await;
    }
    outcomes.into_inner().unwrap().check();
    tasks.stop().await;
}

/// A body that streams is written by a task, which the exchange and the connection have to outlive, or end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_body_streams_never_hangs_on_a_connection_that_closes() {
    let tasks = Tasks::default();
    let (_pool, connections) = connections(&tasks).await;
    let outcomes = Arc::new(Mutex::new(Outcomes::default()));
    let address = front(&tasks, connections, Arc::clone(&outcomes)).await;
    let mut client: Option<SendRequest<Full<Bytes>>> = None;
    for number in 0..REQUESTS {
        let mut sender = match client.take() {
            Some(kept) => kept,
            None => connect(&tasks, address).await,
        };
        if sender.ready().await.is_err() {
            sender = connect(&tasks, address).await;
        }
        let request = Request::post("/").header("host", "front.test").body(Full::from("hi")).unwrap();
        let response = timeout(2 * HANGS, sender.send_request(request)).await.expect("the front hangs").unwrap();
        response.into_body().collect().await.unwrap();
        client = Some(sender);
        turns(number % CLIENT_MOMENTS).await;
    }
    outcomes.lock().unwrap().check();
    tasks.stop().await;
}

async fn connect(tasks: &Tasks, address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tasks.spawn("client", async move { drop(driver.await) });
    sender
}

/// A server that passes each request on, its body as it comes.
async fn front(tasks: &Tasks, connections: Arc<Connections>, outcomes: Arc<Mutex<Outcomes>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let started = tasks.clone();
    tasks.spawn("fronts", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (connections, outcomes) = (Arc::clone(&connections), Arc::clone(&outcomes));
            started.spawn("front", async move {
                let service = service_fn(|request: Request<Incoming>| async {
                    let body =
                        OutboundBody::streaming(request.into_body(), HANGS, 64 * 1024, Arc::new(Upload::default()));
                    assert!(!body.is_at_hand(), "nothing streams");
                    exchange(&connections, body, &outcomes).await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"passed"))))
                });
                drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    address
}

/// More than tokio lets one turn read: a request finds all of them closed, whatever is left of its turn.
#[tokio::test]
async fn a_request_takes_none_of_many_closed_connections() {
    const MANY: usize = 200;
    let tasks = Tasks::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_pool, connections) = connections_to(&tasks, listener.local_addr().unwrap());
    let (close, closed) = tokio::sync::watch::channel(false);
    let started = tasks.clone();
    tasks.spawn("upstreams", async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut closed = closed.clone();
            started.spawn("upstream", async move {
                assert!(stream.read(&mut [0; 4_096]).await.unwrap() > 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                drop(closed.wait_for(|closed| *closed).await);
            });
        }
    });
    let mut checkouts = Vec::new();
    for _ in 0..MANY {
        checkouts.push(connections.checkout(Reuse::Allowed).await.unwrap());
    }
    for checkout in checkouts {
        assert!(!checkout.is_reused());
        let request = Request::post("/").header("host", "upstream.test").body(OutboundBody::empty()).unwrap();
        let response = checkout.send(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    }
    assert!(connections.checkout(Reuse::Allowed).await.unwrap().is_reused());
    close.send(true).unwrap();
    // As many as close, and the runtime hears of it.
    turns(20 * MANY).await;
    assert!(!connections.checkout(Reuse::Allowed).await.unwrap().is_reused());
    tasks.stop().await;
}
