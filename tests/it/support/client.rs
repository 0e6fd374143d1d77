//! A client of bytes: what it sends is what stands in the test, what it reads is judged by the answer's own framing.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::{OwnWords, within};

/// A connection. Its halves may be used at the same time.
pub(crate) struct Client {
    pub(crate) writer: Writer,
    pub(crate) reader: Reader,
}

pub(crate) struct Writer(OwnedWriteHalf);

pub(crate) struct Reader {
    half: OwnedReadHalf,
    buffer: Vec<u8>,
    framing: Framing,
    own_words: OwnWords,
}

/// How the rest of the answer's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// What comes next of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Vec<u8>),
    /// It is whole; these are the trailers.
    End(Vec<(String, String)>),
    /// The connection ended before the body did.
    Cut,
}

/// An answer, or its head while the body is still to come.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// Whether the body ended as its framing says.
    pub(crate) whole: bool,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, own_words: OwnWords) -> Self {
        let stream = within(TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (half, writer) = stream.into_split();
        let reader = Reader { half, buffer: Vec::new(), framing: Framing::Length(0), own_words };
        Self { writer: Writer(writer), reader }
    }

    /// Sends one request and reads its answer.
    pub(crate) async fn ask(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        self.writer.request(method, target, fields, body).await;
        self.reader.answer(method).await
    }

    pub(crate) async fn get(&mut self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"").await
    }

    /// Leaves by a reset instead of an end.
    pub(crate) fn reset(self) {
        let stream = self.reader.half.reunite(self.writer.0).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Sends these bytes and reads the answer to them.
    pub(crate) async fn raw(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.writer.send(bytes).await;
        self.reader.answer("GET").await
    }
}

impl Writer {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends, to somebody who may have closed.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within(self.0.write_all(bytes.as_ref())).await
    }

    pub(crate) async fn request(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) {
        let framing = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        self.head(method, target, fields, &framing).await;
        self.send(body).await;
    }

    /// The head of a request with a chunked body.
    pub(crate) async fn chunked(&mut self, method: &str, target: &str) {
        self.head(method, target, &[], "transfer-encoding: chunked\r\n").await;
    }

    pub(crate) async fn chunk(&mut self, data: impl AsRef<[u8]>) {
        let data = data.as_ref();
        self.send([format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()).await;
    }

    pub(crate) async fn end(&mut self) {
        self.send("0\r\n\r\n").await;
    }

    /// Sends no more, and goes on listening.
    pub(crate) async fn half_close(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    async fn head(&mut self, method: &str, target: &str, fields: &[(&str, &str)], framing: &str) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in fields {
            head.extend([name, ": ", value, "\r\n"]);
        }
        self.send(head + framing + "\r\n").await;
    }
}

impl Reader {
    /// The next whole answer, interim ones included.
    pub(crate) async fn answer(&mut self, method: &str) -> Answer {
        let mut answer = self.head(method).await;
        loop {
            match self.piece().await {
                Piece::Data(data) => answer.body.extend(data),
                Piece::End(trailers) => {
                    answer.trailers = trailers;
                    break;
                }
                Piece::Cut => {
                    answer.whole = false;
                    break;
                }
            }
        }
        if answer.code().is_some() {
            self.own_words.add(&format!("{:?} {}", answer.headers, answer.text()));
        }
        answer
    }

    /// The next head.
    pub(crate) async fn head(&mut self, method: &str) -> Answer {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            assert!(
                self.read().await,
                "the connection ended before an answer: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap();
        let status = status_line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines.map(field).collect();
        let mut answer = Answer { status, headers, body: Vec::new(), trailers: Vec::new(), whole: true };
        assert!(answer.values("content-length").len() <= 1, "{head}");
        self.framing = match (answer.header("transfer-encoding"), answer.header("content-length")) {
            _ if method == "HEAD" || matches!(status, 100..200 | 204 | 304) => Framing::Length(0),
            (Some("chunked"), None) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length.parse().unwrap()),
            (None, None) => Framing::UntilClose,
            (coding, length) => panic!("framed twice or oddly: {coding:?} {length:?}"),
        };
        answer.whole = true;
        answer
    }

    /// The next piece of the body whose head was read last.
    pub(crate) async fn piece(&mut self) -> Piece {
        match self.framing {
            Framing::Length(0) => Piece::End(Vec::new()),
            Framing::Length(left) => {
                if self.buffer.is_empty() && !self.read().await {
                    return Piece::Cut;
                }
                let taken = usize::try_from(left).unwrap().min(self.buffer.len());
                self.framing = Framing::Length(left - taken as u64);
                Piece::Data(self.buffer.drain(..taken).collect())
            }
            Framing::UntilClose => {
                if self.buffer.is_empty() && !self.read().await {
                    return Piece::End(Vec::new());
                }
                Piece::Data(std::mem::take(&mut self.buffer))
            }
            Framing::Chunked => self.chunk().await,
        }
    }

    async fn chunk(&mut self) -> Piece {
        let Some(size) = self.line().await else { return Piece::Cut };
        let size = usize::from_str_radix(&size, 16).unwrap();
        if size == 0 {
            let mut trailers = Vec::new();
            loop {
                match self.line().await {
                    None => return Piece::Cut,
                    Some(line) if line.is_empty() => break,
                    Some(line) => trailers.push(field(&line)),
                }
            }
            self.framing = Framing::Length(0);
            return Piece::End(trailers);
        }
        while self.buffer.len() < size + 2 {
            if !self.read().await {
                return Piece::Cut;
            }
        }
        let data = self.buffer.drain(..size).collect();
        assert_eq!(self.buffer.drain(..2).collect::<Vec<u8>>(), b"\r\n");
        Piece::Data(data)
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// Reads and forgets; `false` at the end of the connection.
    pub(crate) async fn skip(&mut self) -> bool {
        self.buffer.clear();
        self.read().await
    }

    /// So many bytes that are no HTTP, behind a 101.
    pub(crate) async fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.read().await, "the connection ended in a tunnel");
        }
        self.buffer.drain(..length).collect()
    }

    /// Whether the connection ends without another byte.
    pub(crate) async fn is_over(&mut self) -> bool {
        self.buffer.is_empty() && !self.read().await
    }

    /// Whether no byte has come that was not read.
    pub(crate) fn is_silent(&self) -> bool {
        self.buffer.is_empty()
            && self.half.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Reads more; `false` at the end of the connection.
    async fn read(&mut self) -> bool {
        self.buffer.reserve(64 * 1024);
        !matches!(within(self.half.read_buf(&mut self.buffer)).await, Ok(0) | Err(_))
    }
}

impl Answer {
    /// The value of a field; of several, the first.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.values(name).first().copied()
    }

    /// All values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Why the answer is countersign's own.
    pub(crate) fn code(&self) -> Option<&str> {
        self.header("x-countersign-error")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Status and code, to compare both at once.
    pub(crate) fn verdict(&self) -> (u16, &str) {
        (self.status, self.code().unwrap_or("none"))
    }
}

fn field(line: impl AsRef<str>) -> (String, String) {
    let (name, value) = line.as_ref().split_once(':').unwrap();
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
