//! Sending an authorised request, within its time.
//!
//! Takes only [`Sealed`] requests, so that nothing leaves without its authorisation. Says of a failure whether the same
//! request may go out once more (docs/rules.md 3.3); the caller authorises it again for that. Imports `message`, `telemetry`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep_until};
use tokio_util::either::Either;

use super::pool::{Answered, Connections, Reuse, Sent, Undelivered, UpstreamError};
use super::record::Exchange;
use super::rewrite::{Purpose, Sealed};
use crate::message::body::{OutboundBody, Turn, Upload};

/// A request that got no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nothing of it was sent, here is its body: it may go out once more.
    Unsent(OutboundBody, UpstreamError),
    /// There was no connection to send it on: it may go out once more.
    Unreached(OutboundBody, UpstreamError),
    /// The upstream did not look at it: it may go out once more, whatever it is.
    Unprocessed(UpstreamError),
    /// It met a connection that was closing: it may go out once more if it is idempotent.
    Closing(UpstreamError),
    /// It must not.
    Final(UpstreamError),
}

impl Failure {
    /// Why there is no answer.
    pub fn into_error(self) -> UpstreamError {
        match self {
            Self::Unsent(_, error)
            | Self::Unreached(_, error)
            | Self::Unprocessed(error)
            | Self::Closing(error)
            | Self::Final(error) => error,
        }
    }
}

/// Sends `sealed` and waits for the response head, `limit` at most after the upstream took the last piece of a streamed
/// body, or after the send began. The head is a 101 only if `sealed` asked for one.
///
/// # Errors
/// [`Failure`].
///
/// # Cancellation
/// Dropping the future ends the exchange on the upstream's side.
pub async fn send(
    connections: &Arc<Connections>,
    sealed: Sealed,
    reuse: Reuse,
    limit: Duration,
    exchange: &mut Exchange,
) -> Result<Answered, Failure> {
    let checkout = match connections.checkout(reuse).await {
        Ok(checkout) => checkout,
        // Asking again would only let a name server change its mind.
        Err(error @ UpstreamError::OffLimits { .. }) => return Err(Failure::Final(error)),
        Err(error) => return Err(Failure::Unreached(sealed.into_body(), error)),
    };
    let begun = Instant::now();
    exchange.sending(checkout.connection(), begun);
    let (upload, purpose) = (sealed.upload(), sealed.purpose());
    let request = sealed.into_request(connections.origin(), connections.host(), checkout.form());
    // Sent before the future that waits for the answer begins, which has no room for the request then.
    let sent = match purpose {
        Purpose::Answer => Either::Left(checkout.send(request)),
        // Rare and large.
        Purpose::WebSocket => Either::Right(Box::pin(checkout.send_upgrade(request))),
    };
    let answer = pin!(async {
        match sent {
            Either::Left(answer) => answer.await.map(Answered::Response),
            Either::Right(answer) => answer.await,
        }
    });
    tokio::select! {
        // Without it a random number is drawn each time, for whom to ask first.
        biased;
        outcome = answer => match outcome {
            // No `Upgrade` went out, so nobody is there to speak another protocol (docs/rules.md 2.2).
            Ok(Answered::Response(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Err(Failure::Final(UpstreamError::Switched))
            }
            Ok(answered) => Ok(answered),
            Err(Undelivered { error, sent }) => Err(match sent {
                Sent::Nothing(request) => Failure::Unsent(request.into_body(), error),
                Sent::Unprocessed => Failure::Unprocessed(error),
                Sent::OnReusedConnection => Failure::Closing(error),
                Sent::Something => Failure::Final(error),
            }),
        },
        () = overdue(&upload, begun, limit) => Err(Failure::Final(UpstreamError::ResponseTimeout(limit))),
    }
}

/// Ready when the upstream has had `limit` from `since` on to answer, or to take the next piece of the body. While the
/// client is the one who keeps an upload waiting, its own timer runs, not this one.
async fn overdue(upload: &Upload, mut since: Instant, limit: Duration) {
    loop {
        sleep_until(since + limit).await;
        let moved = upload.moved();
        if upload.turn() == Turn::Client {
            since = Instant::now();
        } else if moved > since {
            since = moved;
        } else {
            return;
        }
    }
}
