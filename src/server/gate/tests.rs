use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Empty};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::super::connection::{COPY_BUFFER, Timers, serve};
use super::super::{Arrival, Drain};
use super::head::HeadError;
use super::head::Limits;
use super::testing::{Message, messages, mutated};
use super::*;

const TIMERS: Timers = Timers {
    head: Duration::from_secs(10),
    idle: Duration::from_mins(10),
    heads: Limits::DEFAULT,
    buffer: COPY_BUFFER,
};

/// What a service is asked, through the gate and hyper, by a client that sends `stream` in pieces of `step` bytes.
#[derive(Debug, Default)]
struct Asked {
    requests: Vec<(String, String, Vec<u8>, bool)>,
    refused: Vec<HeadError>,
}

async fn ask(stream: &[u8], step: usize) -> Asked {
    let asked = Arc::new(Mutex::new(Asked::default()));
    let (client, server) = duplex(step);
    let service = |arrival: Arrival| {
        let asked = Arc::clone(&asked);
        async move {
            match arrival {
                Err(refused) => asked.lock().unwrap().refused.push(refused.error),
                Ok(request) => {
                    let (parts, mut body) = request.into_parts();
                    let (mut bytes, mut whole) = (Vec::new(), true);
                    while let Some(frame) = body.frame().await {
                        match frame {
                            Ok(frame) => bytes.extend(frame.into_data().unwrap_or_default()),
                            Err(_) => whole = false,
                        }
                    }
                    let request = (parts.method.to_string(), parts.uri.to_string(), bytes, whole);
                    asked.lock().unwrap().requests.push(request);
                }
            }
            Response::new(Empty::<Bytes>::new())
        }
    };
    let (mut reader, mut writer) = tokio::io::split(client);
    tokio::join!(
        serve(server, None, TIMERS, Drain::default(), service),
        async {
            // The server may have closed.
            drop(writer.write_all(stream).await);
            drop(writer.shutdown().await);
        },
        async {
            let mut answers = Vec::new();
            drop(reader.read_to_end(&mut answers).await);
        }
    );
    Arc::into_inner(asked).unwrap().into_inner().unwrap()
}

/// What the judge alone lets pass of `stream`, and whether a head was refused.
fn passes(stream: &[u8]) -> (Vec<Message>, bool) {
    let mut judge = Judge::default();
    let mut cleared = 0;
    let refused = loop {
        match judge.clear(&stream[cleared..]) {
            Ok(0) => break false,
            Ok(more) => cleared += more,
            Err(stop) => break matches!(stop, Stop::Head(_)),
        }
    };
    (messages(&stream[..cleared]), refused)
}

#[tokio::test(start_paused = true)]
async fn hyper_sees_in_a_mutated_stream_what_another_parser_sees() {
    let mut random = fastrand::Rng::with_seed(4);
    let (mut seen, mut refusals) = (0, 0);
    for _ in 0..4_000 {
        let stream = mutated(&mut random);
        let (expected, refused) = passes(&stream);
        let asked = ask(&stream, if random.bool() { 65_536 } else { random.usize(1..100) }).await;
        let shown = stream.escape_ascii();
        let is_absolute = |target: &str| target.to_ascii_lowercase().starts_with("http");
        // hyper ends the connection where a request says so.
        let end =
            expected.iter().position(|message| message.last || !message.whole).map_or(expected.len(), |at| at + 1);
        let closes = expected.iter().any(|message| message.last || !message.whole);
        assert_eq!(asked.requests.len(), end, "{shown}");
        for ((method, uri, body, whole), message) in asked.requests.iter().zip(&expected) {
            assert_eq!((method, body, whole), (&message.method, &message.body, &message.whole), "{shown}");
            assert!(*uri == message.target || is_absolute(&message.target), "{shown}");
        }
        assert_eq!(asked.refused.len(), usize::from(refused && !closes), "{:?} {shown}", asked.refused);
        seen += asked.requests.len();
        refusals += asked.refused.len();
    }
    assert!(seen > 2_000 && refusals > 500, "{seen} requests, {refusals} refusals");
}

#[tokio::test(start_paused = true)]
async fn a_stream_means_the_same_wherever_it_is_cut() {
    let stream = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\r\nPUT /b HTTP/1.1\r\nHost: a\r\n\
        Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\nGET /d HTTP/1.2\r\n\r\n";
    for step in 1..stream.len() {
        let asked = ask(stream, step).await;
        let seen: Vec<(&str, &[u8])> =
            asked.requests.iter().map(|(_, uri, body, _)| (uri.as_str(), body.as_slice())).collect();
        assert_eq!(seen, [("/a", &b"hello"[..]), ("/b", b"hello"), ("/c", b"")], "by {step}");
        assert_eq!(asked.refused, [HeadError::Version], "by {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_read_into_the_reader_and_what_is_behind_it_is_kept() {
    let (mut client, server) = duplex(1 << 20);
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let next = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (body, mut buffer) = (vec![b'x'; 100_000], vec![0; 30_000]);
    client.write_all(&[&head[..], &body, next].concat()).await.unwrap();
    let mut gate = Gate::new(server, None, TIMERS, Arc::default());
    let mut read = 0;
    let whole = head.len() + 100_000;
    while read < whole {
        let length = gate.read(&mut buffer).await.unwrap();
        assert!(length == 30_000 || read + length == whole, "{length} at {read}");
        read += length;
    }
    assert_eq!((read, gate.held.as_ref()), (whole, &next[..]));
    assert_eq!(gate.read(&mut buffer).await.unwrap(), next.len());
    assert!(gate.held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_wait_outside() {
    let (mut client, server) = duplex(4096);
    let stream = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10_000);
    let mut gate = Gate::new(server, None, TIMERS, Arc::default());
    let (most, requests) = (AtomicUsize::new(0), AtomicUsize::new(0));
    tokio::join!(
        async {
            client.write_all(&stream).await.unwrap();
            client.shutdown().await.unwrap();
        },
        async {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = gate.read(&mut buffer).await.unwrap();
                if length == 0 {
                    break;
                }
                assert_eq!(&buffer[..length], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                requests.fetch_add(1, Ordering::Relaxed);
                most.fetch_max(gate.held.capacity(), Ordering::Relaxed);
            }
        }
    );
    assert_eq!(requests.into_inner(), 10_000);
    assert!(most.into_inner() <= 128 * 1024);
}

#[tokio::test(start_paused = true)]
async fn silence_is_measured_from_where_it_matters() {
    let timed_out = async |stream: &'static [u8]| {
        let (mut client, server) = duplex(4096);
        client.write_all(stream).await.unwrap();
        let mut gate = Gate::new(server, None, TIMERS, Arc::default());
        let begun = Instant::now();
        let mut buffer = [0; 4096];
        loop {
            if let Err(error) = gate.read(&mut buffer).await {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                return begun.elapsed().as_secs();
            }
        }
    };
    assert_eq!(timed_out(b"").await, 600);
    assert_eq!(timed_out(b"\r\n").await, 600, "an empty line begins no head");
    assert_eq!(timed_out(b"G").await, 10);
    assert_eq!(timed_out(b"GET / HTTP/1.0\r\n\r\n").await, 600);
    assert_eq!(timed_out(b"GET / HTTP/1.0\r\n\r\nG").await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_still_sends_is_given_time_to_read_its_answer() {
    let (mut client, server) = duplex(64);
    let mut gate = Gate::new(server, None, TIMERS, Arc::default());
    let begun = Instant::now();
    let upload = vec![b'x'; 100_000];
    let (sent, ()) = tokio::join!(client.write_all(&upload), async {
        let mut buffer = [0; 4096];
        assert_eq!(gate.read(&mut buffer).await.unwrap(), SUBSTITUTE.len());
        gate.shutdown().await.unwrap();
    });
    sent.unwrap();
    assert!(begun.elapsed() >= LINGER && begun.elapsed() < 2 * LINGER, "{:?}", begun.elapsed());
    let (mut client, server) = duplex(64);
    let mut gate = Gate::new(server, None, TIMERS, Arc::default());
    let begun = Instant::now();
    client.shutdown().await.unwrap();
    gate.shutdown().await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody will send");
}
