//! A request body that counts, hashes and records what passes, and keeps none of it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{BodyEnd, Received};
use crate::Error;
use crate::double::list;
use crate::encoding::hex;
use crate::ledger::Entry;

/// A body under observation. Dropping it ends the record.
pub(super) struct Tap {
    body: Incoming,
    record: Entry<Received>,
    hash: digest::Context,
    end: BodyEnd,
}

impl Tap {
    pub(super) fn new(body: Incoming, record: Entry<Received>) -> Self {
        let mut tap = Self { body, record, hash: digest::Context::new(&digest::SHA256), end: BodyEnd::Arriving };
        if tap.body.is_end_stream() {
            tap.finish(BodyEnd::Whole);
        }
        tap
    }

    /// Reads and forgets up to about `limit` bytes.
    pub(super) async fn drain(&mut self, limit: u64) {
        let mut read = 0;
        while read < limit
            && let Some(Ok(frame)) = self.frame().await
        {
            read += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
    }

    /// SHA-256 of what has passed so far, in hex.
    pub(super) fn sha256(&self) -> String {
        hex(self.hash.clone().finish().as_ref())
    }

    fn finish(&mut self, end: BodyEnd) {
        if self.end == BodyEnd::Arriving {
            self.end = end;
            let hash = self.sha256();
            self.record.amend(|received| {
                received.body_sha256 = hash;
                received.body_end = end;
            });
        }
    }
}

impl Body for Tap {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let tap = self.get_mut();
        let frame = match ready!(Pin::new(&mut tap.body).poll_frame(context)) {
            None => {
                tap.finish(BodyEnd::Whole);
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                tap.finish(BodyEnd::Cut);
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            tap.hash.update(data);
            tap.record.amend(|received| received.body_len += data.len() as u64);
        }
        if let Some(trailers) = frame.trailers_ref() {
            tap.record.amend(|received| received.trailers = list(trailers));
        }
        // Who knows the length from the head does not ask again after the last byte.
        if tap.body.is_end_stream() {
            tap.finish(BodyEnd::Whole);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.finish(BodyEnd::Unread);
    }
}
