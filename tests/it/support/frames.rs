//! An upstream of HTTP/2 frames, over TLS: the test plays it. Heads of requests are not decoded.

use std::collections::VecDeque;
use std::sync::Arc;

use rustls::ServerConfig;
use standin::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{API, within};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// More than any test sends.
const WINDOW: u32 = 1 << 20;
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;

/// A listener on loopback that shows a certificate for [`API`] and offers HTTP/2 alone.
pub(crate) struct FrameUpstream {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
}

/// A connection that countersign made.
pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
    /// Frames that were read while others were waited for.
    kept: VecDeque<Frame>,
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl FrameUpstream {
    pub(crate) async fn listen(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, tls: authority.server_config(&[API], &[b"h2"]) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The next connection, before anything was said.
    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        within(self.listener.accept()).await.unwrap().0
    }

    /// The next connection, after the settings; `most` is how many streams it takes, if it says so.
    pub(crate) async fn accept(&self, most: Option<u32>) -> Frames {
        let stream = self.accept_tcp().await;
        let mut stream = within(TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream)).await.unwrap();
        let mut preface = [0; 24];
        within(stream.read_exact(&mut preface)).await.unwrap();
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut frames = Frames { stream, kept: VecDeque::new() };
        let mut settings = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &WINDOW.to_be_bytes()].concat();
        if let Some(most) = most {
            settings.extend([&MAX_CONCURRENT_STREAMS.to_be_bytes()[..], &most.to_be_bytes()].concat());
        }
        frames.write(SETTINGS, 0, 0, &settings).await;
        frames.write(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes()).await;
        frames
    }
}

impl Frames {
    /// The next request: its stream and its whole body.
    pub(crate) async fn request(&mut self) -> (u32, Vec<u8>) {
        let (stream, mut ended) = self.head().await;
        let mut body = Vec::new();
        while !ended {
            let (data, last) = self.data(stream).await;
            body.extend(data);
            ended = last;
        }
        (stream, body)
    }

    /// The next request's stream, and whether it has no body.
    pub(crate) async fn head(&mut self) -> (u32, bool) {
        let frame = self.wait(|frame| frame.kind == HEADERS).await;
        assert!(frame.flags & END_HEADERS != 0, "{frame:?}");
        (frame.stream, frame.flags & END_STREAM != 0)
    }

    /// The next piece of a request's body, and whether it is the last.
    pub(crate) async fn data(&mut self, stream: u32) -> (Vec<u8>, bool) {
        let frame = self.wait(|frame| frame.kind == DATA && frame.stream == stream).await;
        (frame.payload, frame.flags & END_STREAM != 0)
    }

    /// Answers 200 with `body`.
    pub(crate) async fn answer(&mut self, stream: u32, body: &str) {
        // Entry 8 of the static table (RFC 7541 appendix A).
        self.write(HEADERS, END_HEADERS, stream, &[0x88]).await;
        self.write(DATA, END_STREAM, stream, body.as_bytes()).await;
    }

    /// An interim answer, 103.
    pub(crate) async fn interim(&mut self, stream: u32) {
        self.write(HEADERS, END_HEADERS, stream, b"\x08\x03103").await;
    }

    pub(crate) async fn reset(&mut self, stream: u32, code: u32) {
        self.write(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    /// Takes no streams above `last` any more.
    pub(crate) async fn go_away(&mut self, last: u32, code: u32) {
        self.write(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await;
    }

    /// Whether no frame of a request comes before the end of the connection.
    pub(crate) async fn is_over(&mut self) -> bool {
        while let Some(frame) = self.read().await {
            if frame.kind == HEADERS {
                return false;
            }
        }
        true
    }

    async fn wait(&mut self, fits: impl Fn(&Frame) -> bool) -> Frame {
        if let Some(at) = self.kept.iter().position(&fits) {
            return self.kept.remove(at).unwrap();
        }
        loop {
            let frame = self.read().await.expect("the connection ended before the frame came");
            if fits(&frame) {
                return frame;
            }
            self.kept.push_back(frame);
        }
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            within(self.stream.read_exact(&mut head)).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length as usize];
            within(self.stream.read_exact(&mut payload)).await.ok()?;
            let (kind, flags) = (head[3], head[4]);
            match kind {
                SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await,
                PING if flags & ACK == 0 => self.write(PING, ACK, 0, &payload).await,
                DATA | HEADERS | RST_STREAM => return Some(Frame { kind, flags, stream, payload }),
                _ => {}
            }
        }
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        // Whoever has heard enough may have closed.
        drop(within(self.stream.write_all(&[head, payload.to_vec()].concat())).await);
    }
}
