//! What is recorded of one request, in our own words; [`super::otlp`] has the collector's.
//!
//! Never a query, a field's value or a body. Imports nothing of ours but its neighbors.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::SystemTime;

use http::uri::Authority;
use http::{Method, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::context::Context;
use crate::telemetry::phases::Phase;

/// A request that is being recorded.
#[derive(Clone, Debug)]
pub struct Span {
    pub(super) context: Context,
    pub(super) parent: Option<NonZeroU64>,
    /// As it goes on.
    pub(super) state: Option<String>,
    pub(super) began: SystemTime,
    began_at: Instant,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) scheme: &'static str,
    pub(super) version: Version,
    /// Whom the caller named, once that is somebody.
    pub(super) host: Option<Authority>,
    /// Where it is sent.
    pub(super) upstream: Option<Authority>,
    /// When each phase began; a request that is sent twice has some twice.
    phases: Vec<(Phase, Instant)>,
}

/// A request that was recorded.
#[derive(Clone, Debug)]
pub struct Ended {
    pub(super) span: Box<Span>,
    pub(super) end: End,
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct End {
    /// When.
    pub at: Instant,
    /// Where it went; none if it was refused before that was known.
    pub route: Option<Arc<str>>,
    /// What the client got.
    pub status: Option<StatusCode>,
    /// The word of the access log.
    pub outcome: &'static str,
    /// Whether that is a failure, of whomever but the client.
    pub failed: bool,
    /// What is wrong with it, if it is no status of the upstream's; as the log has it.
    pub error: Option<String>,
    /// Our id of it.
    pub request_id: String,
    /// And the upstream's.
    pub upstream_id: Option<String>,
    /// How often it was sent.
    pub sends: u8,
    /// Body bytes from the client.
    pub received: u64,
    /// And to it.
    pub sent: u64,
}

/// A request's head, as far as it is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// How.
    pub method: &'a Method,
    /// What. Its query is not looked at.
    pub uri: &'a Uri,
    /// In which version of HTTP.
    pub version: Version,
}

/// Longer paths are cut, as in the log.
const LONGEST_PATH: usize = 512;

impl Span {
    pub(super) fn begin(
        context: Context,
        (parent, state): (Option<NonZeroU64>, Option<String>),
        asked: Asked<'_>,
        (began, began_at): (SystemTime, Instant),
    ) -> Self {
        let Asked { method, uri, version } = asked;
        Self {
            context,
            parent,
            state,
            began,
            began_at,
            method: method.clone(),
            path: uri.path().chars().take(LONGEST_PATH).collect(),
            // What HTTP/1 asks a server for tells no scheme; a caller on this machine mostly speaks in plain text.
            scheme: if uri.scheme_str() == Some("https") { "https" } else { "http" },
            version,
            host: None,
            upstream: None,
            phases: vec![(Phase::Receive, began_at)],
        }
    }

    /// It means `host` and is sent to `upstream`.
    pub fn leads(&mut self, host: &str, upstream: &Authority) {
        self.host = host.parse().ok();
        self.upstream = Some(upstream.clone());
    }

    /// From now on it waits for something else.
    pub fn enters(&mut self, phase: Phase, now: Instant) {
        // A body that is polled without end must not make this long; no request comes to so many.
        if self.phases.len() < 32 {
            self.phases.push((phase, now));
        }
    }

    /// It is over.
    pub fn end(self: Box<Self>, end: End) -> Ended {
        Ended { span: self, end }
    }

    pub(super) fn phases(&self) -> impl Iterator<Item = (Phase, SystemTime)> {
        self.phases.iter().map(|(phase, at)| (*phase, self.wall(*at)))
    }

    /// By the wall clock as it stood at the beginning: one that is set meanwhile would have spans end before they begin.
    pub(super) fn wall(&self, at: Instant) -> SystemTime {
        self.began + at.saturating_duration_since(self.began_at)
    }
}
