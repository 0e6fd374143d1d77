//! An upstream of bytes, over plain HTTP: the test plays it.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::within;

/// A listener on loopback.
pub(crate) struct Wire(TcpListener);

/// A connection that countersign made.
pub(crate) struct Line<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
}

impl Wire {
    pub(crate) async fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Whether nobody has connected.
    pub(crate) async fn is_untouched(&self) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, self.0.accept()).await.is_err()
    }

    /// A `[[route]]` to it.
    pub(crate) fn route(&self, path: &str) -> String {
        format!("[[route]]\npath = \"{path}\"\nauth = \"none\"\nupstream = \"http://{}\"\n", self.address())
    }

    pub(crate) async fn accept(&self) -> Line {
        let (stream, _) = within(self.0.accept()).await.unwrap();
        Line::new(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// A connection of another kind.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next request's head, as it came.
    pub(crate) async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.read().await > 0, "the connection ended in a head: {:?}", self.buffer);
        }
    }

    /// So many bytes of body.
    pub(crate) async fn body(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.read().await > 0, "the connection ended in a body");
        }
        self.buffer.drain(..length).collect()
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Writes, to somebody who may have closed.
    pub(crate) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within(self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Sends no more.
    pub(crate) async fn half_close(&mut self) {
        within(self.stream.shutdown()).await.unwrap();
    }

    /// Whether the connection ends without another byte.
    pub(crate) async fn is_over(&mut self) -> bool {
        self.buffer.is_empty() && !matches!(within(self.stream.read_buf(&mut self.buffer)).await, Ok(1..))
    }

    /// How many bytes there are until the connection ends, in whatever way.
    pub(crate) async fn rest(&mut self) -> usize {
        while matches!(within(self.stream.read_buf(&mut self.buffer)).await, Ok(1..)) {}
        self.buffer.len()
    }

    async fn read(&mut self) -> usize {
        within(self.stream.read_buf(&mut self.buffer)).await.unwrap()
    }
}
