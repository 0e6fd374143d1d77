//! Answers over HTTP/1.1, right ones and ones that are nearly right, read twice: by `message::response`, in pieces of any
//! size, and by hyper's client. Where ours takes an answer, hyper's finds the same one; what ours alone refuses is told apart.
//!
//! The seeds are fixed, so a failure comes back.

#![cfg(test)]

use bytes::{Bytes, BytesMut};
use countersign::message::framing::{self, FramingError};
use countersign::message::response::{Answers, Heads};
use fastrand::Rng;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An answer that was read to its end, or to where it breaks off.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    status: StatusCode,
    version: Version,
    fields: Vec<(String, Vec<u8>)>,
    content: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
    /// Why it is not whole; `None` where it is.
    broken: Option<Why>,
    /// Whether another may follow, and the bytes that are there for it; hyper does not say.
    persists: bool,
    left: usize,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It ends too early.
    Short,
    Framing(FramingError),
    /// Hyper knows.
    Other,
}

fn plain(fields: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

impl Read {
    fn of<B>(response: &Response<B>) -> Self {
        Self {
            status: response.status(),
            version: response.version(),
            fields: plain(response.headers()),
            content: Vec::new(),
            trailers: Vec::new(),
            broken: None,
            persists: false,
            left: 0,
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => {
                assert!(!data.is_empty());
                self.content.extend_from_slice(&data);
            }
            Err(frame) => self.trailers = plain(&frame.into_trailers().unwrap()),
        }
    }
}

/// Reads `bytes`, which come in pieces of `step` and then end.
fn ours(bytes: &[u8], step: usize, method: &Method) -> Result<Read, Why> {
    let (mut pieces, mut there) = (bytes.chunks(step), BytesMut::new());
    let most = Answers::default();
    let mut heads = Heads::new(most);
    let mut head = loop {
        there.extend_from_slice(pieces.next().ok_or(Why::Short)?);
        if let Some(head) = heads.next(&mut there, method).map_err(Why::Framing)? {
            break head;
        }
    };
    let mut read = Read { persists: head.persists, ..Read::of(&head.response) };
    while !head.content.is_over() {
        match head.content.next(&mut there, most.fields) {
            Ok(Some(frame)) => read.take(frame),
            Ok(None) if head.content.is_over() => {}
            Ok(None) => match pieces.next() {
                Some(piece) => there.extend_from_slice(piece),
                None => read.broken = (!head.content.close()).then_some(Why::Short),
            },
            Err(error) => {
                read.broken = Some(Why::Framing(error));
                break;
            }
        }
    }
    read.left = there.len() + pieces.map(<[u8]>::len).sum::<usize>();
    Ok(read)
}

/// The same by hyper's client, its heads judged as they were before.
async fn hypers(bytes: Vec<u8>, method: Method) -> Result<Read, Why> {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    let upstream = async move {
        // The answer may not come before the question.
        assert!(far.read(&mut [0; 4_096]).await.unwrap() > 0);
        // Who does not like it closes.
        drop((far.write_all(&bytes).await, far.shutdown().await, far.read_to_end(&mut Vec::new()).await));
    };
    let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
    let read = async move {
        let mut response = sender.send_request(request).await.map_err(|_broken| Why::Other)?;
        framing::judge(response.status(), response.headers_mut()).map_err(Why::Framing)?;
        let mut read = Read::of(&response);
        let mut content = response.into_body();
        while !content.is_end_stream() {
            match content.frame().await {
                Some(Ok(frame)) => read.take(frame),
                Some(Err(_broken)) => {
                    read.broken = Some(Why::Other);
                    break;
                }
                None => break,
            }
        }
        Ok(read)
    };
    let ((), _ended, read) = tokio::join!(upstream, driver, read);
    read
}

/// Answers of which each part is right.
fn good(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.usize(..8).saturating_sub(5) {
        bytes.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n");
    }
    let status = rng.choice(["200 OK", "200", "404 Who knows", "204 No Content", "304 Not Modified", "500 "]).unwrap();
    let version = if rng.u8(..8) == 0 { "1.0" } else { "1.1" };
    bytes.extend_from_slice(format!("HTTP/{version} {status}\r\n").as_bytes());
    let fields = ["x: 1", "X-Long-Name: a b\tc", "set-cookie: a=b", "x:", "connection: close", "x: \u{e9}"];
    for _ in 0..rng.usize(..4) {
        bytes.extend_from_slice(format!("{}\r\n", rng.choice(fields).unwrap()).as_bytes());
    }
    let content = "abcdefghijklmnopqrstuvwxyz0123456789\r\n".repeat(rng.usize(..4));
    match rng.u8(..5) {
        0 => bytes.extend_from_slice(format!("\r\n{content}").as_bytes()),
        1 | 2 => {
            bytes.extend_from_slice(format!("content-length: {}\r\n\r\n{content}", content.len()).as_bytes());
        }
        _ => {
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            for chunk in content.as_bytes().chunks(rng.usize(1..40)) {
                let extension = if rng.u8(..4) == 0 { ";a=\"b\"" } else { "" };
                bytes.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n");
            if rng.u8(..4) == 0 {
                bytes.extend_from_slice(b"x-sum: 1\r\n");
            }
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes
}

/// The same, with a few things done to it.
fn mutated(rng: &mut Rng) -> Vec<u8> {
    const ODD: [&str; 24] = [
        "\r",
        "\n",
        "\r\n",
        "\r\n\r\n",
        "\n\n",
        ":",
        " ",
        ";",
        ",",
        "0",
        "9",
        "f",
        "g",
        "x",
        "\t",
        "\0",
        "\u{7f}",
        "-",
        "+",
        "content-length: 5\r\n",
        "transfer-encoding: chunked\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "0\r\n\r\n",
        "101",
    ];
    let mut bytes = good(rng);
    for _ in 0..rng.usize(..4) {
        let (at, more) = (rng.usize(..=bytes.len()), rng.usize(..6));
        let until = (at + more).min(bytes.len());
        match rng.u8(..4) {
            0 => drop(bytes.splice(at..until, [])),
            1 => drop(bytes.splice(at..at, rng.choice(ODD).unwrap().bytes())),
            2 => drop(bytes.splice(at..until, rng.choice(ODD).unwrap().bytes())),
            _ => {
                let again = bytes[at..until].to_vec();
                drop(bytes.splice(at..at, again));
            }
        }
    }
    bytes
}

/// What ours refuses although hyper takes it: line ends in chunks and trailers that not every reader sees, and sizes of more
/// than sixteen digits.
fn is_stricter(why: Why) -> bool {
    matches!(why, Why::Framing(FramingError::Chunk | FramingError::Trailers(_)))
}

async fn agree(cases: u64) {
    let (mut taken, mut ended, mut refused, mut stricter) = (0, 0, 0, 0);
    for seed in 0..cases {
        let rng = &mut Rng::with_seed(seed);
        let bytes = mutated(rng);
        let method = if rng.u8(..8) == 0 { Method::HEAD } else { Method::GET };
        let shown = format!("seed {seed}: {method} {:?}", String::from_utf8_lossy(&bytes));
        let read = ours(&bytes, bytes.len().max(1), &method);
        // A head in pieces is looked at where it may end: what is wrong with it may be told by then alone.
        assert_eq!(ours(&bytes, rng.usize(1..30), &method).ok(), read.as_ref().ok().cloned(), "{shown}");
        if let Ok(Read { broken: None, persists: true, left: 0, .. }) = &read {
            // It ends with its last byte, and not before or behind it.
            let next = ours(&[&bytes[..], b"HTTP"].concat(), 9, &method).unwrap();
            assert_eq!((next.broken, next.left), (None, 4), "{shown}");
            let short = ours(&bytes[..bytes.len() - 1], 9, &method);
            assert!(short.is_err() || short.is_ok_and(|short| short.broken == Some(Why::Short)), "{shown}");
            ended += 1;
        }
        let theirs = hypers(bytes, method).await;
        match (&read, &theirs) {
            (Ok(ours), Ok(theirs)) => {
                let parts = |read: &Read| (read.status, read.version, read.fields.clone());
                assert_eq!(parts(ours), parts(theirs), "{shown}");
                match (ours.broken, theirs.broken) {
                    (None, None) => {
                        assert_eq!((&ours.content, &ours.trailers), (&theirs.content, &theirs.trailers), "{shown}");
                        taken += 1;
                    }
                    (Some(_), Some(_)) => refused += 1,
                    (Some(why), None) => {
                        assert!(is_stricter(why), "{shown}: {why:?}, and {theirs:?}");
                        stricter += 1;
                    }
                    (None, Some(_)) => panic!("{shown}: taken by ours alone: {ours:?}, {theirs:?}"),
                }
            }
            (Err(_), Err(_)) => refused += 1,
            (ours, theirs) => panic!("{shown}: {ours:?}, and {theirs:?}"),
        }
    }
    println!("{taken} taken, {ended} that end by themselves, {refused} refused, {stricter} by ours alone");
    assert!(taken > cases / 4 && ended > cases / 10 && refused > cases / 10);
}

#[tokio::test]
async fn answers_are_read_as_hyper_reads_them() {
    agree(20_000).await;
}

#[tokio::test]
#[ignore = "a minute"]
async fn a_million_answers_are_read_as_hyper_reads_them() {
    agree(1_000_000).await;
}
