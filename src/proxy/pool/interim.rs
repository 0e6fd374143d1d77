//! Counting the interim answers (1xx) to one request over HTTP/2.
//!
//! hyper swallows them and goes on for as long as they come: two million were seen (docs/rules.md 1.6). So the headers of
//! frames are looked at on their way to it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::message::framing::FramingError;

/// What `most` being exceeded looks like to hyper.
fn exceeded(most: u32) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, FramingError::TooManyInterim(most))
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
