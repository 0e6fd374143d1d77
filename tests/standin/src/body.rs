//! Bodies of responses, for custom responders of the gateway: whole, empty, or fed through a channel.

use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};

use crate::Error;

/// A body of any kind, as the gateway sends and hands it out.
pub type Body = BoxBody<Bytes, Error>;

/// Feeds a body made by [`channel`]: `send_data`, `send_trailers`, and `abort` to break it off.
pub type BodySender = Sender<Bytes, Error>;

/// A body of these bytes, sent with its length.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body that is sent piece by piece, as long as the sender lives; at most `pieces` of them wait to be sent.
pub fn channel(pieces: usize) -> (BodySender, Body) {
    let (sender, body) = Channel::new(pieces);
    (sender, body.boxed())
}
