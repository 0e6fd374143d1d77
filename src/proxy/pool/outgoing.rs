//! One request on its way out over HTTP/1.1: written in as few pieces as it comes in, and no further ahead than that.

use std::io::{self, Cursor};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::uri::PathAndQuery;
use http::{Method, Request};
use http_body::Body;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::error::ExchangeError;
use crate::message::body::{BrokenOff, OutboundBody};

/// What a head has besides its target and fields.
const ENOUGH: usize = 96;

/// What is left of a request.
pub(super) struct Outgoing {
    /// The head, or the line before a chunk.
    before: Cursor<Vec<u8>>,
    piece: Bytes,
    /// The end of a chunk.
    behind: &'static [u8],
    coding: Coding,
    /// Held until its last byte is out: it counts against the budget as long.
    body: OutboundBody,
    /// Nothing more of it is asked for.
    ended: bool,
}

/// How the end of the content is told (RFC 9112 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// By its length; so much of it is to come.
    Length(u64),
    Chunked,
}

impl Outgoing {
    /// All of `request`, whose fields say nothing of its framing.
    pub(super) fn new(request: Request<OutboundBody>) -> Self {
        let length = request.body().length();
        let before = Cursor::new(head(&request, length));
        let (ended, coding) = (length == Some(0), length.map_or(Coding::Chunked, Coding::Length));
        Self { before, piece: Bytes::new(), behind: b"", coding, body: request.into_body(), ended }
    }

    /// Whether its body comes from elsewhere, and perhaps not soon.
    pub(super) fn streams(&self) -> bool {
        !self.body.is_at_hand()
    }

    /// Writes as much as goes; ready when all of it is out.
    pub(super) fn poll(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ExchangeError>> {
        loop {
            // Asked for before what is there is written, so that a head goes with its content.
            let waits = self.poll_piece(cx)?.is_pending();
            let mut there = (&mut self.before).chain(&mut self.piece).chain(&mut self.behind);
            if there.has_remaining() {
                // Such a future has no state: another one goes on where it was.
                if ready!(pin!(to.write_buf(&mut there)).poll(cx)).map_err(ExchangeError::Io)? == 0 {
                    return Poll::Ready(Err(ExchangeError::Io(io::ErrorKind::WriteZero.into())));
                }
                continue;
            }
            let flushed = pin!(to.flush()).poll(cx).map_err(ExchangeError::Io)?;
            return if waits { Poll::Pending } else { flushed.map(Ok) };
        }
    }

    /// Takes the next piece of the body, unless there is one, or none is to come.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        while !self.ended && self.piece.is_empty() && self.behind.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
            let is_last = frame.is_none() || self.body.is_end_stream();
            // An outgoing body has no trailers.
            self.take(frame.and_then(|frame| frame.into_data().ok()).unwrap_or_default(), is_last)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Frames a piece; one without a byte would end chunked content.
    fn take(&mut self, piece: Bytes, is_last: bool) -> Result<(), ExchangeError> {
        self.ended = is_last;
        match &mut self.coding {
            Coding::Length(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or(BrokenOff)?;
                if is_last && *left > 0 {
                    return Err(BrokenOff.into());
                }
            }
            Coding::Chunked => {
                if !piece.is_empty() {
                    if !self.before.has_remaining() {
                        self.before.set_position(0);
                        self.before.get_mut().clear();
                    }
                    // Behind the head, where that is not out yet.
                    self.before.get_mut().extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                }
                self.behind = match (piece.is_empty(), is_last) {
                    (true, true) => b"0\r\n\r\n",
                    (true, false) => b"",
                    (false, true) => b"\r\n0\r\n\r\n",
                    (false, false) => b"\r\n",
                };
            }
        }
        self.piece = piece;
        Ok(())
    }
}

/// The head of `request`, whose content has this `length`. Neither a target nor a field can hold a line end: their types see
/// to that.
fn head(request: &Request<OutboundBody>, length: Option<u64>) -> Vec<u8> {
    let (method, uri, fields) = (request.method(), request.uri(), request.headers());
    let size: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum();
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut head = Vec::with_capacity(size + target.len() + ENOUGH);
    head.extend_from_slice(method.as_str().as_bytes());
    head.push(b' ');
    if let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) {
        for part in [scheme.as_str(), "://", authority.as_str()] {
            head.extend_from_slice(part.as_bytes());
        }
    }
    head.extend_from_slice(target.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in fields {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    match length {
        None => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        // RFC 9110 8.6: methods that usually carry content say so when there is none, and some servers answer 411 else.
        Some(0) if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {}
        Some(length) => head.extend_from_slice(format!("content-length: {length}\r\n").as_bytes()),
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn head_of(method: Method, uri: &'static str, length: Option<u64>) -> String {
        let mut request = Request::new(OutboundBody::empty());
        (*request.method_mut(), *request.uri_mut()) = (method, uri.parse().unwrap());
        for value in ["1", "\u{e9}"] {
            request.headers_mut().append("x-a", HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        String::from_utf8(head(&request, length)).unwrap()
    }

    #[test]
    fn a_head_says_how_its_content_is_framed() {
        let fields = "x-a: 1\r\nx-a: \u{e9}\r\n";
        for (method, length, framing) in [
            (Method::GET, Some(0), ""),
            (Method::DELETE, Some(0), ""),
            (Method::GET, Some(3), "content-length: 3\r\n"),
            (Method::GET, None, "transfer-encoding: chunked\r\n"),
            (Method::POST, Some(0), "content-length: 0\r\n"),
            (Method::PUT, Some(u64::MAX), "content-length: 18446744073709551615\r\n"),
        ] {
            let head = head_of(method.clone(), "/a?b=c", length);
            assert_eq!(head, format!("{method} /a?b=c HTTP/1.1\r\n{fields}{framing}\r\n"));
        }
        let absolute = head_of(Method::GET, "http://a.test:8080/b", Some(0));
        assert_eq!(absolute, format!("GET http://a.test:8080/b HTTP/1.1\r\n{fields}\r\n"));
    }
}
