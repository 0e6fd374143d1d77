//! One HTTP/1.1 connection and the exchange on it.
//!
//! The request's own future drives the connection, and after the head the response's body does: no task, no channel, no
//! wake-up between threads. Only an upload that is answered before its end gets a task, which writes the rest: it must go on
//! although nobody may read the answer. What an answer's bytes mean is in [`response`](crate::message::response), what is
//! written of a request in [`outgoing`](super::outgoing).

use std::fmt;
use std::future::{poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, ReadHalf, WriteHalf};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tokio_util::either::Either;

use super::dial::Stream;
use super::error::ExchangeError;
use super::outgoing::Outgoing;
use super::shared::Taken;
use super::{Answered, Connections, Sent, Undelivered, UpstreamError};
use crate::message::body::OutboundBody;
use crate::message::response::{Answers, Content, Head, Heads};

/// Room for the first bytes of an answer. What fills its room finds twice as much the next time, up to the second or to
/// as much as a head may have (docs/rules.md 3.2).
const FIRST_ROOM: usize = 8 * 1024;
const MOST_ROOM: usize = 64 * 1024;

/// A connection between two exchanges, or in one.
pub(super) struct H1 {
    wire: Wire,
    /// What has come and was not taken.
    bytes: BytesMut,
    /// For as much as comes at once.
    room: usize,
    heads: Heads,
    used: bool,
    /// No new request after this.
    pub(super) until: Instant,
    /// Whose runtime watches its socket: nothing goes from thread to thread for those who run there.
    pub(super) worker: runtime::Id,
    /// Whose request was the last.
    taken_by: runtime::Id,
}

/// Who reads and who writes.
enum Wire {
    /// The exchange, which may have a part of the request to write.
    Own(Stream, Option<Outgoing>),
    /// The exchange reads, and a task writes, which gives its half back when all is written.
    Halves(ReadHalf<Stream>, oneshot::Receiver<Result<WriteHalf<Stream>, ExchangeError>>),
    /// Nobody: it has failed.
    Lost,
}

impl H1 {
    /// A new one, whose answers are within `most`.
    pub(super) fn new(stream: Stream, most: Answers, until: Instant) -> Box<Self> {
        let here = Handle::current().id();
        Box::new(Self {
            wire: Wire::Own(stream, None),
            bytes: BytesMut::new(),
            room: FIRST_ROOM,
            heads: Heads::new(most),
            used: false,
            until,
            worker: here,
            taken_by: here,
        })
    }

    pub(super) fn is_reused(&self) -> bool {
        self.used
    }

    /// Whether it would take a request; notices a close that has arrived meanwhile.
    pub(super) fn is_alive(&mut self) -> bool {
        self.hear().is_ok()
    }

    /// A request of the calling thread has taken it. Who does so twice running has its socket watched by his own runtime from
    /// then on; one that threads take by turns would move each time.
    pub(super) fn taken(&mut self) {
        let here = Handle::current().id();
        let again = std::mem::replace(&mut self.taken_by, here) == here;
        // What cannot move serves from afar.
        if again
            && self.worker != here
            && let Wire::Own(stream, _) = &mut self.wire
            && stream.watch_here().is_ok()
        {
            self.worker = here;
        }
    }

    /// Listens for what a connection must not say between two exchanges.
    fn hear(&mut self) -> Result<(), ExchangeError> {
        let Wire::Own(stream, None) = &mut self.wire else { return Err(ExchangeError::Closed) };
        let mut byte = [0];
        // By its own right: who has used up his turn would hear nothing, and take it for silence.
        let heard = pin!(unconstrained(stream.read(&mut byte))).poll(&mut Context::from_waker(Waker::noop()));
        match heard {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(error)) => Err(ExchangeError::Io(error)),
            Poll::Ready(Ok(0)) => Err(ExchangeError::Closed),
            Poll::Ready(Ok(_)) => Err(ExchangeError::Unasked),
        }
    }

    /// Sends `request` and waits for the response head. The future has no room for the request, which is with the
    /// connection by then.
    pub(super) fn exchange(
        mut self: Box<Self>,
        request: Request<OutboundBody>,
        home: Arc<Connections>,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, Undelivered>> + Send {
        let method = request.method().clone();
        match self.begin(request) {
            Err(undelivered) => Either::Left(ready(Err(undelivered))),
            Ok(()) => Either::Right(async move {
                let head = self.head(&method).await?;
                Ok(self.answered(head, home))
            }),
        }
    }

    /// The same for a request that asks for another protocol and has no body.
    pub(super) async fn exchange_upgrade(
        mut self: Box<Self>,
        request: Request<OutboundBody>,
        home: Arc<Connections>,
    ) -> Result<Answered, Undelivered> {
        self.begin(request)?;
        let head = self.head(&Method::GET).await?;
        if head.response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Answered::Response(self.answered(head, home)));
        }
        let Self { wire: Wire::Own(stream, None), bytes, .. } = *self else {
            // Before it had the request.
            return Err(Undelivered { error: UpstreamError::Switched, sent: Sent::Something });
        };
        Ok(Answered::Switched(head.response.map(|()| Switched { stream, first: bytes.freeze() })))
    }

    /// Takes `request`, to be written by and by.
    fn begin(&mut self, request: Request<OutboundBody>) -> Result<(), Undelivered> {
        // Who takes one that was kept has listened already.
        let heard = if self.used { Ok(()) } else { self.hear() };
        match (heard, &mut self.wire) {
            (Ok(()), Wire::Own(_, outgoing @ None)) => {
                *outgoing = Some(Outgoing::new(request));
                Ok(())
            }
            (heard, _) => {
                let error = heard.err().unwrap_or(ExchangeError::Closed).into();
                Err(Undelivered { error, sent: Sent::Nothing(Box::new(request)) })
            }
        }
    }

    /// Waits for the head of the answer.
    async fn head(&mut self, method: &Method) -> Result<Head, Undelivered> {
        let head = poll_fn(|cx| self.poll_head(method, cx));
        head.await.map_err(|error| {
            let gone = matches!(error, ExchangeError::Io(_) | ExchangeError::Closed);
            // An answer that cannot be read is one all the same.
            let unanswered = gone && self.used && !self.heads.have_begun(&self.bytes);
            let sent = if unanswered { Sent::OnReusedConnection } else { Sent::Something };
            Undelivered { error: error.into(), sent }
        })
    }

    fn poll_head(&mut self, method: &Method, cx: &mut Context<'_>) -> Poll<Result<Head, ExchangeError>> {
        self.write(cx)?;
        loop {
            if ready!(self.poll_more(cx))? == 0 {
                return Poll::Ready(Err(ExchangeError::Closed));
            }
            if let Some(head) = self.heads.next(&mut self.bytes, method)? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// Writes of the request what goes now.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), ExchangeError> {
        match &mut self.wire {
            Wire::Own(stream, outgoing) => {
                if let Some(left) = outgoing
                    && left.poll(stream, cx)?.is_ready()
                {
                    *outgoing = None;
                }
            }
            Wire::Halves(_, written) => {
                if let Poll::Ready(written) = Pin::new(written).poll(cx) {
                    // Its task was dropped: everything ends.
                    let writer = written.unwrap_or(Err(ExchangeError::Closed))?;
                    if let Wire::Halves(reader, _) = std::mem::replace(&mut self.wire, Wire::Lost) {
                        self.wire = Wire::Own(reader.unsplit(writer), None);
                    }
                }
            }
            Wire::Lost => {}
        }
        Ok(())
    }

    /// Leaves what is to come of an upload to a task.
    fn upload_apart(&mut self, home: &Connections) {
        if !matches!(&self.wire, Wire::Own(_, Some(outgoing)) if outgoing.streams()) {
            return;
        }
        let wire = std::mem::replace(&mut self.wire, Wire::Lost);
        let Wire::Own(stream, Some(mut outgoing)) = wire else { return };
        let (reader, mut writer) = io::split(stream);
        let (mut written, half) = oneshot::channel();
        home.dialer.spawn("http1-upload", async move {
            tokio::select! {
                biased;
                // The exchange is over, or given up.
                () = written.closed() => {}
                done = poll_fn(|cx| outgoing.poll(&mut writer, cx)) => drop(written.send(done.map(|()| writer))),
            }
        });
        self.wire = Wire::Halves(reader, half);
    }

    /// Reads more; 0 at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ExchangeError>> {
        self.bytes.reserve(self.room);
        let free = self.bytes.capacity() - self.bytes.len();
        // Such a future has no state: another one goes on where it was.
        let read = match &mut self.wire {
            Wire::Own(stream, _) => pin!(stream.read_buf(&mut self.bytes)).poll(cx),
            Wire::Halves(reader, _) => pin!(reader.read_buf(&mut self.bytes)).poll(cx),
            Wire::Lost => return Poll::Ready(Err(ExchangeError::Closed)),
        };
        let read = ready!(read).map_err(ExchangeError::Io)?;
        if read == free {
            self.room = (self.room * 2).min(MOST_ROOM).min(self.heads.most().head as usize);
        }
        Poll::Ready(Ok(read))
    }

    /// What comes back on this connection.
    fn answered(mut self: Box<Self>, head: Head, home: Arc<Connections>) -> Response<UpstreamBody> {
        let Head { response, content, persists } = head;
        if !persists {
            self.until = Instant::now();
        }
        if !content.is_over() {
            self.upload_apart(&home);
        }
        let mut body = UpstreamBody(Source::Http1 { content, exchange: Some((self, home)) });
        body.release_at_end();
        response.map(|()| body)
    }

    /// The answer is over: goes back to where it came from, unless something else than an answer came, or the API has
    /// answered before it had all of what is at hand (RFC 9112 9.3: the rest would have to follow). A body that still streams
    /// goes on.
    fn release(mut self: Box<Self>, home: &Arc<Connections>) {
        let written = self.write(&mut Context::from_waker(Waker::noop()));
        if written.is_err() || !self.bytes.is_empty() {
            return;
        }
        match &self.wire {
            Wire::Own(_, None) => home.keep(self.emptied()),
            Wire::Own(_, Some(outgoing)) if !outgoing.streams() => {}
            Wire::Lost => {}
            Wire::Own(_, Some(_)) | Wire::Halves(..) => {
                let last = Arc::clone(home);
                home.dialer.spawn("http1-last-upload", async move {
                    let written = poll_fn(|cx| match (self.write(cx), &self.wire) {
                        (Ok(()), Wire::Own(_, None)) => Poll::Ready(Ok(())),
                        // Nothing more may come, but for the end.
                        (Ok(()), _) => self.poll_more(cx).map(|_any| Err(ExchangeError::Closed)),
                        (written, _) => Poll::Ready(written),
                    });
                    if written.await.is_ok() {
                        last.keep(self.emptied());
                    }
                });
            }
        }
    }

    /// As it lies in wait, without a buffer.
    fn emptied(mut self: Box<Self>) -> Box<Self> {
        (self.bytes, self.room, self.used) = (BytesMut::new(), FIRST_ROOM, true);
        self.heads.restart();
        self
    }
}

impl fmt::Debug for H1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H1").field("used", &self.used).finish_non_exhaustive()
    }
}

/// The bytes of a connection after a 101.
pub struct Switched {
    stream: Stream,
    /// Came together with the head.
    first: Bytes,
}

impl Switched {
    /// The connection, and what was read of it already.
    pub fn into_parts(self) -> (impl AsyncRead + AsyncWrite + Send + Unpin + 'static, Bytes) {
        (self.stream, self.first)
    }
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switched").finish_non_exhaustive()
    }
}

/// A response body, and the connection it comes on.
#[derive(Debug)]
pub struct UpstreamBody(Source);

#[derive(Debug)]
enum Source {
    Http1 {
        content: Content,
        /// Until the content has ended.
        exchange: Option<(Box<H1>, Arc<Connections>)>,
    },
    Http2 {
        incoming: Incoming,
        #[expect(dead_code, reason = "held for its drop: the stream takes its place until then")]
        place: Taken,
    },
}

impl UpstreamBody {
    pub(super) fn http2(incoming: Incoming, place: Taken) -> Self {
        Self(Source::Http2 { incoming, place })
    }

    fn release_at_end(&mut self) {
        if let Source::Http1 { content, exchange } = &mut self.0
            && content.is_over()
            && let Some((connection, home)) = exchange.take()
        {
            connection.release(&home);
        }
    }
}

/// The next piece of an answer; `None` at its end.
fn poll_piece(
    content: &mut Content,
    connection: &mut H1,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Frame<Bytes>>, ExchangeError>> {
    connection.write(cx)?;
    loop {
        let piece = content.next(&mut connection.bytes, connection.heads.most().fields)?;
        if piece.is_some() || content.is_over() {
            return Poll::Ready(Ok(piece));
        }
        if ready!(connection.poll_more(cx))? == 0 {
            return Poll::Ready(if content.close() { Ok(None) } else { Err(ExchangeError::Closed) });
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = ExchangeError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        match &mut self.0 {
            Source::Http1 { content, exchange } => {
                let Some((connection, _)) = exchange else { return Poll::Ready(None) };
                let piece = ready!(poll_piece(content, connection, cx));
                if piece.is_err() {
                    *exchange = None;
                } else {
                    self.release_at_end();
                }
                Poll::Ready(piece.transpose())
            }
            Source::Http2 { incoming, .. } => Pin::new(incoming).poll_frame(cx).map_err(ExchangeError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Http1 { content, .. } => content.is_over(),
            Source::Http2 { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Http1 { content, .. } => content.length().map(SizeHint::with_exact).unwrap_or_default(),
            Source::Http2 { incoming, .. } => incoming.size_hint(),
        }
    }
}
