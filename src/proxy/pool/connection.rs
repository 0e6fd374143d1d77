//! One HTTP/1 connection and the exchange on it.
//!
//! The request's own future drives the connection, and after the head the response's body does: no task, no channel, no
//! wake-up between threads (2 µs of a request). Only a request whose body still streams gets a task: its upload
//! must go on although nobody reads the response yet.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::dial::{H1Driver, H1Sender, Stream};
use super::interim::Begins;
use super::shared::Taken;
use super::{Answered, Connections, Sent, Undelivered, UpstreamError};
use crate::message::body::OutboundBody;
use crate::message::fields;
use crate::message::framing::{self, Trust};

/// A connection between two exchanges, or in one.
pub(super) struct H1 {
    sender: H1Sender,
    driver: Driver,
    begins: Begins,
    used: bool,
    /// Its last request had a body at hand, which the API may have answered before it had taken all of it.
    uploaded: bool,
    /// No new request after this.
    pub(super) until: Instant,
    /// Whose runtime watches its socket: nothing goes from thread to thread for those who run there.
    pub(super) worker: runtime::Id,
}

/// Who polls the connection.
enum Driver {
    Inline(Box<H1Driver>),
    /// A task does; this resolves when it has ended.
    Task(oneshot::Receiver<()>),
}

impl Driver {
    /// Ready once the connection is over.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Inline(connection) => Pin::new(connection).poll(cx).map(|_how| ()),
            Self::Task(ended) => Pin::new(ended).poll(cx).map(|_how| ()),
        }
    }
}

impl H1 {
    pub(super) fn new(sender: H1Sender, driver: Box<H1Driver>, begins: Begins, until: Instant) -> Self {
        Self {
            sender,
            driver: Driver::Inline(driver),
            begins,
            used: false,
            uploaded: false,
            until,
            worker: Handle::current().id(),
        }
    }

    pub(super) fn is_reused(&self) -> bool {
        self.used
    }

    /// Whether it would take a request; notices a close that has arrived meanwhile.
    pub(super) fn is_alive(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        self.driver.poll_ended(&mut nobody).is_pending() && self.sender.is_ready()
    }

    /// Whether the next request may go on it: not while it has a body left of the last one, which would be held with it.
    fn is_done(&mut self) -> bool {
        !self.uploaded || self.is_alive()
    }

    /// Sends `request` and waits for the response head. The future has no room for the request, which is with the
    /// connection by then.
    pub(super) fn exchange(
        mut self,
        request: Request<OutboundBody>,
        home: Arc<Connections>,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, Undelivered>> + Send {
        let is_at_hand = request.body().is_at_hand();
        if !is_at_hand {
            self.drive_by_task(&home);
        }
        self.uploaded = is_at_hand && request.body().length() != Some(0);
        let reused = std::mem::replace(&mut self.used, true);
        self.begins.tell();
        let answer = Box::pin(self.sender.try_send_request(request));
        self.answer(answer, reused, home)
    }

    async fn answer(
        mut self,
        mut answer: Pin<Box<impl Future<Output = Result<Response<Incoming>, Failed>>>>,
        reused: bool,
        home: Arc<Connections>,
    ) -> Result<Response<UpstreamBody>, Undelivered> {
        let first = poll_fn(|cx| {
            if let Poll::Ready(outcome) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(outcome));
            }
            if self.driver.poll_ended(cx).is_ready() {
                return Poll::Ready(None);
            }
            answer.as_mut().poll(cx).map(Some)
        });
        let Some(outcome) = first.await else {
            // The connection is over and nobody answers: a request that still lies in the channel to it would wait for
            // ever. Without both its ends the channel hands it back. The task that drove a connection has
            // dropped the far one; here it is the finished future itself that holds it.
            drop(self);
            return match answer.await {
                Ok(response) => shared(response, None),
                Err(failed) => Err(undelivered(failed, reused)),
            };
        };
        match outcome {
            Ok(response) => self.answered(response, home),
            Err(failed) => Err(undelivered(failed, reused)),
        }
    }

    /// The same for a request that asks for another protocol and has no body.
    pub(super) async fn exchange_upgrade(
        self,
        request: Request<OutboundBody>,
        home: Arc<Connections>,
    ) -> Result<Answered, Undelivered> {
        let reused = self.used;
        self.begins.tell();
        let Self { mut sender, driver: Driver::Inline(mut connection), begins, until, worker, .. } = self else {
            // Some upload has left its task on it; the next connection will have none.
            return Err(Undelivered { error: UpstreamError::Switched, sent: Sent::Nothing(Box::new(request)) });
        };
        let mut answer = Box::pin(sender.try_send_request(request));
        let mut over = false;
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(outcome) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(outcome));
            }
            // A 101 ends it together with the answer.
            over = Pin::new(&mut *connection).poll(cx).is_ready();
            let outcome = answer.as_mut().poll(cx);
            if over && outcome.is_pending() { Poll::Ready(None) } else { outcome.map(Some) }
        });
        let Some(outcome) = outcome.await else {
            // As in `exchange`: what lies in the channel comes back once both its ends are gone.
            drop(connection);
            drop(sender);
            return match answer.await {
                Ok(_) => Err(Undelivered { error: UpstreamError::Switched, sent: Sent::Something }),
                Err(failed) => Err(undelivered(failed, reused)),
            };
        };
        let response = outcome.map_err(|failed| undelivered(failed, reused))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if !over && let Err(error) = poll_fn(|cx| Pin::new(&mut *connection).poll(cx)).await {
                return Err(Undelivered { error: UpstreamError::http(error), sent: Sent::Something });
            }
            let parts = connection.into_parts();
            let switched = Switched { stream: parts.io.into_inner(), first: parts.read_buf };
            return Ok(Answered::Switched(response.map(|_empty| switched)));
        }
        if over {
            return shared(response, None).map(Answered::Response);
        }
        let driver = Driver::Inline(connection);
        let connection = Self { sender, driver, begins, used: true, uploaded: false, until, worker };
        connection.answered(response, home).map(Answered::Response)
    }

    /// What comes back on this connection, if it can be understood.
    fn answered(
        mut self,
        mut response: Response<Incoming>,
        home: Arc<Connections>,
    ) -> Result<Response<UpstreamBody>, Undelivered> {
        let trust = framing::judge(response.status(), response.headers_mut()).map_err(Undelivered::framing)?;
        if trust == Trust::Spent || is_last(&response) {
            self.until = Instant::now();
        }
        Ok(response.map(|incoming| UpstreamBody::new(incoming, self, home)))
    }

    fn drive_by_task(&mut self, home: &Connections) {
        let (over, ended) = oneshot::channel();
        let driver = std::mem::replace(&mut self.driver, Driver::Task(ended));
        let Driver::Inline(connection) = driver else {
            // An earlier upload has set a task on it already.
            self.driver = driver;
            return;
        };
        home.dialer.spawn("http1-connection", async move {
            // How it ended is told by the exchange that was on it.
            drop(connection.await);
            drop(over);
        });
    }
}

impl fmt::Debug for H1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H1").field("used", &self.used).finish_non_exhaustive()
    }
}

/// Whether the upstream says that it closes the connection behind this answer (RFC 9112 9.3).
fn is_last(response: &Response<Incoming>) -> bool {
    let says = |word| fields::lists(response.headers(), &header::CONNECTION, word);
    says("close") || (response.version() < Version::HTTP_11 && !says("keep-alive"))
}

/// An answer whose connection is driven by a task, or is over.
pub(super) fn shared(
    mut response: Response<Incoming>,
    place: Option<Taken>,
) -> Result<Response<UpstreamBody>, Undelivered> {
    framing::judge(response.status(), response.headers_mut()).map_err(Undelivered::framing)?;
    Ok(response.map(|incoming| UpstreamBody { incoming, connection: None, place }))
}

type Failed = hyper::client::conn::TrySendError<Request<OutboundBody>>;

fn undelivered(mut failed: Failed, reused: bool) -> Undelivered {
    let message = failed.take_message();
    let error = UpstreamError::http(failed.into_error());
    let sent = match (message, &error) {
        (Some(request), _) => Sent::Nothing(Box::new(request)),
        // An answer that cannot be read is one all the same.
        (None, UpstreamError::Http(error)) if reused && !error.is_parse() => Sent::OnReusedConnection,
        (None, _) => Sent::Something,
    };
    Undelivered { error, sent }
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
pub struct UpstreamBody {
    incoming: Incoming,
    /// Until the body has ended.
    connection: Option<(H1, Arc<Connections>)>,
    #[expect(dead_code, reason = "held for its drop: the stream takes its place until then")]
    place: Option<Taken>,
}

impl UpstreamBody {
    fn new(incoming: Incoming, connection: H1, home: Arc<Connections>) -> Self {
        let mut body = Self { incoming, connection: Some((connection, home)), place: None };
        body.release_at_end();
        body
    }

    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }

    /// Puts the connection back; its exchange is over. Whoever takes it next polls it, and it learns that by then: polled
    /// now, it would want a second read buffer, because the last bytes of the answer still lie in its own. Only behind a body
    /// it is polled, which tells whether that has gone out.
    fn release(&mut self) {
        if let Some((mut connection, home)) = self.connection.take()
            && connection.is_done()
        {
            home.keep(connection);
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let mut frame = Pin::new(&mut this.incoming).poll_frame(cx);
        if frame.is_pending()
            && let Some((connection, _)) = &mut this.connection
        {
            // Whether it ended or not, what it read is now in the body.
            let ended = connection.driver.poll_ended(cx).is_ready();
            frame = Pin::new(&mut this.incoming).poll_frame(cx);
            if ended {
                this.connection = None;
            }
        }
        match &frame {
            // Nothing comes after trailers, and nobody may ask whether something does.
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => this.release(),
            Poll::Ready(Some(Ok(_))) => this.release_at_end(),
            Poll::Ready(None) => this.release(),
            Poll::Ready(Some(Err(_))) => this.connection = None,
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
