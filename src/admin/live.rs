//! The events that keep an open page up to date: once a second what has changed, and the new requests.
//!
//! Whoever does not read gets nothing prepared: an event is made when the connection takes it. Imports nothing of ours but
//! its neighbors.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::board::{Board, Token};
use super::html::{self, Parts};

const PACE: Duration = Duration::from_secs(1);

/// An answer of the admin port.
#[derive(Debug)]
pub enum Said {
    /// All of it.
    Whole(Full<Bytes>),
    /// Events without an end.
    Live(Box<Live>),
}

/// A stream of server-sent events (HTML, "Server-sent events").
#[derive(Debug)]
pub struct Live {
    board: Arc<Board>,
    ticks: Interval,
    newest: u64,
    /// The page has requests of an earlier start.
    stale: bool,
    shown: Parts,
    _place: OwnedSemaphorePermit,
}

#[derive(Serialize)]
struct Change<'a> {
    /// What the list has is of another start of the program.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reset: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<(&'a str, &'a str)>,
    /// Newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    requests: Vec<String>,
}

impl Live {
    /// Events for a page that has what `token` says.
    pub(super) fn new(board: Arc<Board>, token: Option<Token>, place: OwnedSemaphorePermit) -> Self {
        let known = token.and_then(|token| board.known(token));
        let mut ticks = interval(PACE);
        // A page that did not read for a minute needs one event, not sixty.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (newest, stale) = (known.unwrap_or_default(), known.is_none());
        Self { board, ticks, newest, stale, shown: Parts::default(), _place: place }
    }

    fn event(&mut self) -> Bytes {
        let report = self.board.report(self.newest);
        let now = html::parts(&report);
        let changed = now.0.iter().zip(&self.shown.0).filter(|(new, old)| new != old);
        let parts = changed.map(|((id, html), _)| (*id, html.as_str())).collect();
        let change = Change { reset: self.stale, parts, requests: html::items(&report) };
        let data = serde_json::to_string(&change).unwrap_or_default();
        self.newest = report.requests.first().map_or(self.newest, |request| request.number);
        self.stale = false;
        self.shown = now;
        // JSON has no line ends of its own.
        Bytes::from(format!("id: {}\nretry: 2000\ndata: {data}\n\n", self.board.token(self.newest)))
    }
}

impl Body for Said {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Live(live) => {
                ready!(live.ticks.poll_tick(cx));
                Poll::Ready(Some(Ok(Frame::data(live.event()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Live(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Live(_) => SizeHint::default(),
        }
    }
}
