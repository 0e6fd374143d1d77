//! Answers a test puts in a double's mouth, used up in order before it behaves normally again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::Notify;

use crate::clock::rfc3339;

/// What the next call gets in place of the normal behaviour.
#[derive(Debug)]
pub enum Answer {
    /// This response, whatever was asked.
    Respond {
        /// The status code.
        status: u16,
        /// The header fields, in order. Without a `content-type` there is none.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// Normal behaviour, once notified. `notify_one` before the call arrives counts, `notify_waiters` does not.
    Hold(Arc<Notify>),
    /// The connection is closed without a byte of an answer; over HTTP/2 the stream alone is reset.
    Close,
    /// No answer; the connection stays open until the double is dropped.
    Never,
    /// A normal success with these fields overridden.
    ///
    /// From the token endpoint, `expires_in` stands in the answer as given (`null` leaves the field out) and `scope` in the
    /// answer and in the token; the token itself lives as long as ever. From STS and the container endpoint, a number is
    /// the lifetime in seconds (negative: already over) and a string stands as the expiration verbatim; `scope` is unused.
    /// The gateway takes it as normal behaviour.
    Issue {
        /// The lifetime to claim.
        expires_in: Value,
        /// The scope to claim.
        scope: Option<String>,
    },
}

/// What one call is to do, after any holding.
#[derive(Debug)]
pub(crate) enum Turn {
    Normal,
    Respond(Response<Bytes>),
    Issue { expires_in: Value, scope: Option<String> },
}

/// The connection is to be closed without an answer.
#[derive(Debug)]
pub(crate) struct Closed;

/// A queue of answers, shared between a double and its tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script(Arc<Mutex<VecDeque<Answer>>>);

impl Script {
    pub(crate) fn push(&self, answer: Answer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(answer);
    }

    pub(crate) fn unused(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes the next answer and lives through it, up to the point where bytes are to be sent.
    pub(crate) async fn turn(&self) -> Result<Turn, Closed> {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match answer {
            None => Ok(Turn::Normal),
            Some(Answer::Hold(notify)) => {
                notify.notified().await;
                Ok(Turn::Normal)
            }
            Some(Answer::Close) => Err(Closed),
            Some(Answer::Never) => std::future::pending().await,
            Some(Answer::Issue { expires_in, scope }) => Ok(Turn::Issue { expires_in, scope }),
            Some(Answer::Respond { status, headers, body }) => {
                let mut response = Response::new(Bytes::from(body));
                *response.status_mut() = StatusCode::from_u16(status).expect("a script names a valid status");
                for (name, value) in headers {
                    response.headers_mut().append(
                        HeaderName::try_from(name).expect("a script names a valid field"),
                        HeaderValue::try_from(value).expect("a script gives a valid field value"),
                    );
                }
                Ok(Turn::Respond(response))
            }
        }
    }
}

impl Turn {
    /// The end of a session that is issued now: when it really ends, and what the answer says.
    pub(crate) fn expiry(self, now: SystemTime, lifetime: Duration) -> (SystemTime, String) {
        let (expires, words) = match self {
            Self::Issue { expires_in: Value::String(words), .. } => (now + lifetime, Some(words)),
            Self::Issue { expires_in, .. } => {
                let seconds = expires_in.as_i64().expect("a script gives whole seconds or a string");
                let distance = Duration::from_secs(seconds.unsigned_abs());
                (if seconds < 0 { now - distance } else { now + distance }, None)
            }
            Self::Normal | Self::Respond(_) => (now + lifetime, None),
        };
        let words = words.unwrap_or_else(|| rfc3339(expires));
        (expires, words)
    }
}

impl std::fmt::Display for Closed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("closed by the script")
    }
}

impl std::error::Error for Closed {}
