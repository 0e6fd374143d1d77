//! Between a client's socket and hyper: only what [`judge::Judge`] has cleared is read by hyper.
//!
//! hyper takes bare LF, two framings, no Host or two, and more that another reader would take otherwise (docs/rules.md 1.3);
//! what must be refused is seen here, before hyper hides it. hyper is given a harmless request in its place, so that the
//! refusal is answered, logged and counted like any other. Since it knows where heads begin, it also keeps the two timers
//! that hyper has as one (F4), and one for a client that takes nothing. Imports `message`.

pub mod framing;
pub mod head;
pub mod judge;

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use self::judge::{Judge, Refused, Stop};
use super::connection::Timers;
use super::orphan::FarEnd;
use crate::message::body::IdleTimer;
use crate::message::fields::STRAY_UPGRADE;

/// What hyper reads in place of a refused head. [`Word`] tells the service, which never takes it for a request.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n";
/// An answer to HEAD has no body (RFC 9110 9.3.2).
const SUBSTITUTE_FOR_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n";
/// A client that is still sending gets a reset when its bytes meet a closed socket, and may lose the answer to it.
/// So what it sends is read and forgotten for a while; on loopback, it has seen the end of the answer long before.
const LINGER: Duration = Duration::from_millis(500);
/// A buffer that grew beyond this is given back once it is empty: a thousand idle connections hold nothing.
const KEPT: usize = 8 * 1024;
/// A client that has closed its side is looked for this soon, because closing takes the kernel more than one step, and then
/// this often.
const LOOK_FIRST: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is taken of a client's next requests while one is under way.
const AHEAD: usize = 4 * 1024;

/// What the gate and the service of one connection tell each other.
#[derive(Debug, Default)]
pub(super) struct Word {
    refused: OnceLock<Refused>,
    tunnels: AtomicBool,
}

impl Word {
    /// Why what the service is asked is the substitute for a refused head, if it is.
    pub(super) fn refused(&self) -> Option<&Refused> {
        self.refused.get()
    }

    /// From here on the bytes are another protocol's: they pass untouched, and no timer of ours runs.
    pub(super) fn tunnel(&self) {
        self.tunnels.store(true, Ordering::Relaxed);
    }

    fn tunnels(&self) -> bool {
        self.tunnels.load(Ordering::Relaxed)
    }
}

/// A socket whose bytes are judged before they are read.
pub(super) struct Gate<IO> {
    io: IO,
    timers: Timers,
    judge: Judge,
    word: Arc<Word>,
    /// Bytes that have come and have not been passed on.
    held: BytesMut,
    /// So many of them may pass.
    cleared: usize,
    waiting: Waiting,
    sleep: Option<Pin<Box<Sleep>>>,
    /// A client that takes nothing of its answer would hold its places for ever.
    stalled: IdleTimer,
    /// Set once the answer's end was sent to a client that may still be sending.
    lingers: Option<Instant>,
    /// The client has closed its side.
    has_ended: bool,
    far_end: Option<FarEnd>,
    /// Until it is looked at.
    look: Option<Pin<Box<Sleep>>>,
}

/// What the client is waited for.
#[derive(Clone, Copy, Debug)]
enum Waiting {
    /// Nothing, or the rest of a body; the service has timers of its own.
    Service,
    /// The first byte of a head, since then.
    Head(Instant),
    /// The rest of a head whose first byte came then.
    RestOfHead(Instant),
}

impl<IO> Gate<IO> {
    pub(super) fn new(io: IO, far_end: Option<FarEnd>, timers: Timers, word: Arc<Word>) -> Self {
        Self {
            io,
            timers,
            judge: Judge::new(timers.heads),
            word,
            held: BytesMut::new(),
            cleared: 0,
            waiting: Waiting::Service,
            sleep: None,
            stalled: IdleTimer::new(timers.idle),
            lingers: None,
            has_ended: false,
            far_end,
            look: None,
        }
    }

    /// Until when the client may be silent, now that hyper asks for more.
    fn deadline(&mut self) -> Option<Instant> {
        // The line that may stand in front of a head does not begin it.
        let has_begun = !b"\r\n".starts_with(&self.held);
        self.waiting = match self.waiting {
            _ if !self.judge.is_at_head() => Waiting::Service,
            Waiting::Service | Waiting::Head(_) if has_begun => Waiting::RestOfHead(Instant::now()),
            Waiting::Service => Waiting::Head(Instant::now()),
            waiting @ (Waiting::Head(_) | Waiting::RestOfHead(_)) => waiting,
        };
        match self.waiting {
            Waiting::Service => None,
            Waiting::Head(since) => Some(since + self.timers.idle),
            Waiting::RestOfHead(since) => Some(since + self.timers.head),
        }
    }

    /// What to tell hyper of bytes that were judged.
    fn judged(&mut self, verdict: Result<usize, Stop>) -> io::Result<usize> {
        match verdict {
            Ok(cleared) => {
                if cleared > 0 {
                    self.waiting = Waiting::Service;
                }
                Ok(cleared)
            }
            Err(Stop::Body(error)) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(Stop::Head(refused)) => {
                let is_head = refused.method == Some(Method::HEAD);
                self.held.clear();
                self.held.extend_from_slice(if is_head { SUBSTITUTE_FOR_HEAD } else { SUBSTITUTE });
                self.cleared = self.held.len();
                // Set before hyper can read the substitute; once, because nothing is judged after it.
                self.word.refused.get_or_init(|| refused);
                Ok(0)
            }
        }
    }

    fn pass(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.cleared.min(buffer.remaining());
        buffer.put_slice(self.held.get(..length).unwrap_or_default());
        self.held.advance(length);
        self.cleared -= length;
        if self.held.is_empty() && self.held.capacity() > KEPT {
            self.held = BytesMut::new();
        }
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            // An earlier deadline needs a new timer; a later one waits until the old one has fired.
            if sleep.deadline() > deadline {
                sleep.as_mut().reset(deadline);
            }
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }

    /// Passes on what a write came to; gives up when the client has taken nothing for the idle time.
    fn poll_taken<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() || self.word.tunnels() {
            self.stalled.restart();
            return outcome;
        }
        ready!(self.stalled.poll_elapsed(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// hyper takes any `Upgrade` for a wish to end HTTP here, and then does not send an answer to its end when the connection
/// closes behind it; Java's client and `curl --http2` send one with every request. So hyper does not see those.
fn hide_strays(judge: &mut Judge, bytes: &mut [u8]) {
    for begin in judge.take_strays() {
        if let Some(name) = bytes.get_mut(begin..begin + STRAY_UPGRADE.len()) {
            name.copy_from_slice(STRAY_UPGRADE.as_bytes());
        }
    }
}

impl<IO: AsyncRead + Unpin> Gate<IO> {
    /// Reads behind what `buffer` holds; gives up on a client that is silent for too long.
    fn poll_more(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let deadline = self.deadline();
        if let Poll::Ready(outcome) = Pin::new(&mut self.io).poll_read(cx, buffer) {
            return Poll::Ready(outcome);
        }
        let Some(deadline) = deadline else { return Poll::Pending };
        ready!(self.poll_sleep(cx, deadline));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Looks for a client that is gone, while hyper does not read because its request is under way. One that has closed its
    /// side may still want its answer (docs/rules.md 1.5); a reset is the end, and ends the request upstream, too.
    fn look_for_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_under_way = matches!(self.waiting, Waiting::Service) && self.judge.is_at_head() && self.cleared == 0;
        if !is_under_way || self.word.tunnels() {
            return Ok(());
        }
        if self.has_ended {
            return self.look_for_owner(cx);
        }
        // hyper reads on once it has answered: what is held then is looked at before the socket.
        while self.held.len() < AHEAD {
            let mut space = [const { MaybeUninit::uninit() }; 1024];
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => self.held.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                // Of TLS, too, that was not closed as it should be.
                Poll::Ready(_) => {
                    self.has_ended = true;
                    return self.look_for_owner(cx);
                }
            }
        }
        Ok(())
    }

    /// Tells one that has closed its side and waits from one that is gone, where that can be told.
    fn look_for_owner(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(far_end) = self.far_end else { return Ok(()) };
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK_FIRST)));
        while look.as_mut().poll(cx).is_ready() {
            if far_end.is_orphaned() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            look.as_mut().reset(Instant::now() + LOOK_EVERY);
        }
        Ok(())
    }

    /// Reads and forgets, until the client has seen the end or the time is up.
    fn poll_linger(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let mut forgotten = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut forgotten);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && Instant::now() < until => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.poll_sleep(cx, until),
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gate<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        let before = buffer.filled().len();
        if gate.word.tunnels() {
            if gate.held.is_empty() {
                return Pin::new(&mut gate.io).poll_read(cx, buffer);
            }
            gate.cleared = gate.held.len();
        }
        loop {
            if gate.cleared > 0 || buffer.remaining() == 0 {
                gate.pass(buffer);
                return Poll::Ready(Ok(()));
            }
            if !gate.held.is_empty() {
                let verdict = gate.judge.clear(&gate.held);
                hide_strays(&mut gate.judge, &mut gate.held);
                gate.cleared += gate.judged(verdict)?;
                if gate.cleared > 0 {
                    continue;
                }
            }
            if gate.judge.is_over() {
                return Poll::Ready(Ok(()));
            }
            // Straight into hyper's buffer; what may not pass, or not yet, is taken out again.
            ready!(gate.poll_more(cx, buffer))?;
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if !gate.held.is_empty() {
                gate.held.extend_from_slice(fresh);
                buffer.set_filled(before);
                continue;
            }
            let verdict = gate.judge.clear(fresh);
            if let Ok(passed) = verdict {
                gate.held.extend_from_slice(fresh.get(passed..).unwrap_or_default());
            }
            hide_strays(&mut gate.judge, buffer.filled_mut().get_mut(before..).unwrap_or_default());
            let passed = gate.judged(verdict);
            buffer.set_filled(before + *passed.as_ref().unwrap_or(&0));
            if passed? > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.poll_taken(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, pieces);
        self.poll_taken(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look_for_end(cx)?;
        // TLS takes 64 KiB at once, so that the wait is here.
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.poll_taken(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let until = if let Some(until) = self.lingers {
            until
        } else {
            let outcome = Pin::new(&mut self.io).poll_shutdown(cx);
            ready!(self.poll_taken(cx, outcome))?;
            if self.word.tunnels() {
                return Poll::Ready(Ok(()));
            }
            *self.lingers.insert(Instant::now() + LINGER)
        };
        self.poll_linger(cx, until).map(Ok)
    }
}

impl<IO> fmt::Debug for Gate<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("judge", &self.judge).field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
