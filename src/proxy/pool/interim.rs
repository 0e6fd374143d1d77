//! Counting the interim answers (1xx) to one request.
//!
//! hyper swallows them and goes on for as long as they come: two million were seen (docs/rules.md 1.6). So an upstream's bytes
//! are looked at on their way to it: the beginnings of heads over HTTP/1, the headers of frames over HTTP/2. (hyper's own
//! callback for the former costs six allocations a request.)

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::UpstreamError;

/// What `most` being exceeded looks like to hyper.
fn exceeded(most: u32) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, UpstreamError::TooManyInterim(most))
}

/// Tells the reader of a connection that a request begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Begins(Arc<AtomicBool>);

impl Begins {
    /// What comes from here on answers another request.
    pub(super) fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The heads of answers on an HTTP/1 connection, as far as they are looked at.
#[derive(Debug)]
pub(super) struct Interim {
    most: u32,
    begins: Begins,
    number: u32,
    at: At,
}

/// Where in the bytes of an answer.
#[derive(Clone, Copy, Debug)]
enum At {
    /// In the line that begins a head; so much of it is there.
    Status([u8; STATUS], usize),
    /// In the fields of an interim head; at the beginning of a line, or not.
    Fields { line: bool },
    /// Behind the last head that counts.
    Past,
}

/// As much of a status line as tells an interim answer from others.
const STATUS: usize = "HTTP/1.1 101".len();

impl Interim {
    /// Admits `most` to each of the requests that `begins` tells of.
    pub(super) fn new(most: u32, begins: Begins) -> Self {
        Self { most, begins, number: 0, at: At::Past }
    }

    /// Looks at bytes on their way.
    ///
    /// # Errors
    /// One that says so, once there are too many.
    pub(super) fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.begins.0.load(Ordering::Relaxed) {
            self.begins.0.store(false, Ordering::Relaxed);
            (self.number, self.at) = (0, At::Status([0; STATUS], 0));
        }
        if matches!(self.at, At::Past) {
            return Ok(());
        }
        for byte in bytes {
            self.at = match self.at {
                At::Past => return Ok(()),
                // hyper takes empty lines before a head.
                At::Status(_, 0) if matches!(byte, b'\r' | b'\n') => continue,
                At::Status(mut line, filled) => {
                    if let Some(place) = line.get_mut(filled) {
                        *place = *byte;
                    }
                    if filled + 1 < STATUS { At::Status(line, filled + 1) } else { self.head(line)? }
                }
                At::Fields { line: true } if *byte == b'\n' => At::Status([0; STATUS], 0),
                At::Fields { line: true } if *byte == b'\r' => At::Fields { line: true },
                At::Fields { .. } => At::Fields { line: *byte == b'\n' },
            };
        }
        Ok(())
    }

    /// What comes behind the beginning of a head.
    fn head(&mut self, line: [u8; STATUS]) -> io::Result<At> {
        // 101 is the last answer in HTTP.
        if line.get(STATUS - 3) != Some(&b'1') || line.ends_with(b"101") {
            return Ok(At::Past);
        }
        self.number += 1;
        if self.number > self.most { Err(exceeded(self.most)) } else { Ok(At::Fields { line: false }) }
    }
}

/// An upstream's bytes in HTTP/2, which end when one of its answers has too many heads.
pub(super) struct Counted<IO> {
    io: IO,
    heads: Heads,
}

/// The heads of answers, read from frames (RFC 9113 4.1).
#[derive(Debug)]
struct Heads {
    most: u32,
    /// A frame's header, as far as it is there.
    header: [u8; HEADER],
    filled: usize,
    /// So much of a frame's payload is to come.
    payload: usize,
    /// How many heads of an answer have come whose content has not begun, by its stream.
    begun: HashMap<u32, u32>,
}

const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
/// Answers that were given up between head and content are never heard of again; beyond this many, all are forgotten.
const REMEMBERED: usize = 4_096;

impl Heads {
    fn new(most: u32) -> Self {
        Self { most, header: [0; HEADER], filled: 0, payload: 0, begun: HashMap::new() }
    }

    /// Whether no answer has too many heads, with these bytes.
    fn admit(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let free = self.header.get_mut(self.filled..).unwrap_or_default();
            let taken = free.len().min(bytes.len());
            let (now, later) = bytes.split_at_checked(taken).unwrap_or_default();
            if let Some(free) = free.get_mut(..taken) {
                free.copy_from_slice(now);
            }
            self.filled += taken;
            bytes = later;
            if self.filled == HEADER {
                self.filled = 0;
                if !self.frame() {
                    return false;
                }
            }
        }
        true
    }

    /// Takes note of the frame that begins.
    fn frame(&mut self) -> bool {
        let [high, middle, low, kind, flags, stream @ ..] = self.header;
        self.payload = u32::from_be_bytes([0, high, middle, low]) as usize;
        // Without the reserved bit.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        match kind {
            HEADERS if flags & END_STREAM == 0 => {
                if self.begun.len() >= REMEMBERED {
                    self.begun.clear();
                }
                let heads = self.begun.entry(stream).or_default();
                *heads += 1;
                // The last one is the answer's own.
                *heads <= self.most.saturating_add(1)
            }
            HEADERS | DATA | RST_STREAM => {
                self.begun.remove(&stream);
                true
            }
            _ => true,
        }
    }
}

impl<IO> Counted<IO> {
    /// Admits `most` interim answers to each request.
    pub(super) fn new(io: IO, most: u32) -> Self {
        Self { io, heads: Heads::new(most) }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        if self.heads.admit(fresh) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(exceeded(self.heads.most)))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO> fmt::Debug for Counted<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted").field("heads", &self.heads).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: usize) -> Vec<u8> {
        let length = u8::try_from(payload).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], &vec![HEADERS; payload]].concat()
    }

    #[test]
    fn heads_before_the_last_are_counted_however_the_bytes_are_cut() {
        let heads = |number| "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.0 100\n\r\n\r\n".repeat(number);
        // What follows the last head is no head, whatever it looks like.
        let last = format!("HTTP/1.1 200 OK\r\n\r\n{}", heads(9));
        for size in [1, 2, 11, 12, 13, 1_000] {
            let begins = Begins::default();
            let mut interim = Interim::new(4, begins.clone());
            let mut admits = |text: String| {
                begins.tell();
                text.as_bytes().chunks(size).all(|piece| interim.look(piece).is_ok())
            };
            assert!(admits(heads(2) + &last) && admits(heads(2) + &last), "{size}: each request has its own");
            assert!(admits(heads(2) + "HTTP/1.1 101 Switching\r\n\r\n" + &heads(9)), "{size}");
            assert!(!admits(heads(2) + "HTTP/1.1 199\r\n\r\n" + &last), "{size}");
            assert!(!admits(heads(3)), "{size}");
        }
    }

    #[test]
    fn heads_before_content_are_counted_by_stream_however_the_bytes_are_cut() {
        let interim = |stream| frame(HEADERS, 4, stream, 30);
        let some = [interim(1), interim(3), interim(1), interim(3)].concat();
        let answers = [frame(DATA, 0, 1, 200), frame(HEADERS, 4 | END_STREAM, 3, 9), interim(1), interim(3)].concat();
        let fine = [frame(4, 0, 0, 12), some.clone(), interim(1), answers].concat();
        let many = [some, interim(3), interim(3)].concat();
        for size in [1, 2, 7, 9, 10, 1_000] {
            let admits = |bytes: &[u8]| {
                let mut heads = Heads::new(2);
                bytes.chunks(size).all(|piece| heads.admit(piece))
            };
            assert!(admits(&fine), "{size}");
            assert!(!admits(&many), "{size}");
        }
    }
}
