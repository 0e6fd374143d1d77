//! One line and one count for every request, however it ends.
//!
//! An [`Exchange`] lives as long as its request; what it knows when it is dropped is what is recorded, so a request that
//! the client abandons is counted like any other. No query, no field value and no body is ever recorded. Imports
//! `message`, `auth`, `diagnosis`, `telemetry`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode};
use tokio::time::Instant;

pub use super::meter::Metrics;
use super::meter::{Count, Lane};
use super::outcome::{Fault, Outcome, ProxyError};
use crate::auth::refreshing::Chain;
use crate::auth::request::Grant;
use crate::diagnosis::Diagnosis;
use crate::message::body::{Turn, Upload};
use crate::message::gateway_ids::GatewayIds;
use crate::telemetry::history::{Connection, Entry, Names};
use crate::telemetry::pace::Verdict;
use crate::telemetry::phases::{Phase, Phases};
use crate::telemetry::traces::span::{End, Span};
use crate::telemetry::traces::{Onward, Traced};

/// Longer paths are cut in the log.
const LONGEST_LOGGED_PATH: usize = 512;

/// Whether requests that went well leave a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Each request leaves a line.
    All,
    /// Only those that failed for no fault of the client's do.
    Faults,
}

/// A request from its head to the end of its answer.
#[derive(Debug)]
pub struct Exchange {
    metrics: Arc<Metrics>,
    lane: Arc<Lane>,
    log: AccessLog,
    phases: Phases,
    request_id: HeaderValue,
    /// Unknown if the request did not come so far.
    method: Option<Method>,
    path: String,
    status: Option<StatusCode>,
    outcome: Outcome,
    error: Option<String>,
    /// Boxed: few requests have one.
    diagnosis: Option<Box<Diagnosis>>,
    upload: Option<Arc<Upload>>,
    /// Through a tunnel, from the client.
    carried: u64,
    sent: u64,
    granted: Names,
    sends: u8,
    connection: Option<Connection>,
    upstream_ids: Option<Box<GatewayIds>>,
    /// Boxed: mostly nobody asks for traces.
    trace: Option<Box<Traced>>,
}

impl Exchange {
    /// Begins to record. On the heap: it goes through many hands.
    pub fn begin(
        metrics: Arc<Metrics>,
        log: AccessLog,
        method: Option<Method>,
        path: &str,
        request_id: HeaderValue,
    ) -> Box<Self> {
        let lane = metrics.nowhere();
        let path = match log {
            AccessLog::All => {
                let end = path.floor_char_boundary(LONGEST_LOGGED_PATH);
                path.get(..end).unwrap_or_default().to_owned()
            }
            AccessLog::Faults => String::new(),
        };
        Box::new(Self {
            metrics,
            lane,
            log,
            phases: Phases::start(),
            request_id,
            method,
            path,
            status: None,
            outcome: Outcome::ClientAborted,
            error: None,
            diagnosis: None,
            upload: None,
            carried: 0,
            sent: 0,
            granted: Names::default(),
            sends: 0,
            connection: None,
            upstream_ids: None,
            trace: None,
        })
    }

    /// It has this place in a trace.
    pub fn traced(&mut self, trace: Option<Box<Traced>>) {
        self.trace = trace;
    }

    /// Its span, if it leaves one.
    pub fn span(&mut self) -> Option<&mut Span> {
        self.trace.as_mut().and_then(|trace| trace.span())
    }

    /// What the upstream is told of its trace; `None` is what the caller says.
    pub fn onward(&self) -> Option<&Onward> {
        self.trace.as_ref().map(|trace| trace.onward())
    }

    /// The id under which it is logged.
    pub fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// Its method.
    pub fn method(&self) -> Option<&Method> {
        self.method.as_ref()
    }

    /// It goes to this route.
    pub fn routed(&mut self, route: &Arc<str>) {
        self.lane = self.metrics.change(&self.lane, route);
    }

    /// It waits for something else from `now` on.
    pub fn enters(&mut self, phase: Phase, now: Instant) {
        self.phases.enter(phase, now);
        if let Some(span) = self.span() {
            span.enters(phase, now);
        }
    }

    /// It has what authorises it.
    pub fn authorized(&mut self, grant: &Grant) {
        self.granted = grant.names().collect();
        if let Some(took) = grant.signing() {
            self.lane.signed(took);
        }
    }

    /// It is being sent from `now` on, on such a connection.
    pub fn sending(&mut self, connection: Connection, now: Instant) {
        self.enters(Phase::FirstByte, now);
        self.lane.connected(connection);
        self.connection = Some(connection);
        self.sends = self.sends.saturating_add(1);
    }

    /// Its body can be followed here.
    pub fn uploading(&mut self, upload: &Arc<Upload>) {
        self.upload = Some(Arc::clone(upload));
    }

    /// Whether its body was read to its end.
    pub fn is_upload_over(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.turn() == Turn::Over)
    }

    /// The upstream calls it so.
    pub fn identified(&mut self, ids: Option<Box<GatewayIds>>) {
        self.upstream_ids = ids;
    }

    /// An answer with this status is on its way to the client.
    pub fn answering(&mut self, status: StatusCode) {
        self.enters(Phase::Body, Instant::now());
        self.status = Some(status);
    }

    /// So many bytes of the answer's body were handed to the client's connection.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// So many bytes went through its tunnel, from the client and to it.
    pub fn carried(&mut self, up: u64, down: u64) {
        self.carried += up;
        self.sent += down;
    }

    /// The answer is whole, or broke off.
    pub fn ended(&mut self, outcome: Outcome, error: Option<&(dyn std::error::Error + 'static)>) {
        self.outcome = outcome;
        self.error = error.map(|error| Chain(error).to_string());
    }

    /// This is why it failed.
    pub fn explained(&mut self, diagnosis: Diagnosis) {
        self.diagnosis = Some(Box::new(diagnosis));
    }

    /// Why it failed, if it is known by now.
    pub fn diagnosis(&self) -> Option<&Diagnosis> {
        self.diagnosis.as_deref()
    }

    /// Its route, once that is found.
    pub fn route(&self) -> Option<&Arc<str>> {
        self.lane.route()
    }

    /// countersign answers by itself.
    pub fn refused(&mut self, error: &ProxyError) {
        self.ended(Outcome::Refused(error.code()), Some(error));
        self.status = Some(error.code().status());
    }

    /// Bytes taken from the client behind the head.
    fn received(&self) -> u64 {
        self.upload.as_ref().map_or(0, |upload| upload.passed()) + self.carried
    }

    /// Whose fault an end other than a whole answer is.
    fn fault(&self) -> Option<Fault> {
        match self.outcome {
            Outcome::Delivered | Outcome::Answered => None,
            Outcome::ClientAborted => Some(Fault::Client),
            Outcome::Truncated => Some(Fault::Upstream),
            Outcome::Refused(code) => Some(code.fault()),
        }
    }

    fn verdict(&self) -> Verdict {
        let status = self.status.map_or(0, |status| status.as_u16());
        match (self.outcome, status) {
            (Outcome::Truncated, _) | (_, 500..) => Verdict::Failed,
            (Outcome::ClientAborted, _) | (_, 400..) => Verdict::Refused,
            (Outcome::Delivered | Outcome::Answered | Outcome::Refused(_), _) => Verdict::Fine,
        }
    }

    fn log(&self, count: &Count) {
        let request_id = self.request_id.to_str().unwrap_or_default();
        let route = self.lane.route().map_or("none", |route| route);
        let status = self.status.map_or(0, |status| status.as_u16());
        let Count { outcome, received, sent, .. } = *count;
        let milliseconds = count.took.div_duration_f64(Duration::from_millis(1));
        let method = self.method.as_ref().map_or("-", Method::as_str);
        let cause = self.diagnosis().map(|diagnosis| diagnosis.first().cause.code());
        let (path, error) = (&self.path, self.error.as_deref());
        let ids = self.upstream_ids.as_deref();
        let (aws_request_id, aws_extended_id) = (ids.and_then(GatewayIds::request), ids.and_then(GatewayIds::extended));
        match self.fault() {
            Some(fault @ (Fault::Countersign | Fault::Credentials | Fault::Upstream)) => tracing::warn!(
                target: "access", request_id, %method, path, route, status, outcome, fault = fault.as_str(), error,
                cause, ms = milliseconds, received, sent, aws_request_id, aws_extended_id, "request failed"
            ),
            Some(fault @ Fault::Client) if self.log == AccessLog::All => tracing::info!(
                target: "access", request_id, %method, path, route, status, outcome, fault = fault.as_str(), error,
                ms = milliseconds, received, sent, aws_request_id, aws_extended_id, "request refused"
            ),
            None if self.log == AccessLog::All => tracing::info!(
                target: "access", request_id, %method, path, route, status, outcome, cause, ms = milliseconds, received,
                sent, aws_request_id, aws_extended_id, "request"
            ),
            Some(_) | None => {}
        }
    }

    /// What its span is told at the end.
    fn end(&self, count: &Count, ended: Instant) -> End {
        End {
            at: ended,
            route: self.lane.route().map(Arc::clone),
            status: self.status,
            outcome: count.outcome,
            failed: count.verdict == Verdict::Failed,
            error: self.error.clone(),
            request_id: self.request_id.to_str().unwrap_or_default().to_owned(),
            upstream_id: self.upstream_ids.as_ref().and_then(|ids| ids.request()).map(ToOwned::to_owned),
            sends: self.sends,
            received: count.received,
            sent: count.sent,
        }
    }

    /// Moves what is known into the history.
    fn keep(&mut self, count: &Count, ended: Instant) {
        let fault = self.fault().map(Fault::as_str);
        self.metrics.history().push(Entry {
            number: 0,
            ended,
            took: count.took,
            phases: count.phases,
            request_id: self.request_id.clone(),
            method: self.method.take(),
            path: std::mem::take(&mut self.path),
            route: self.lane.route().map(Arc::clone),
            status: self.status,
            outcome: count.outcome,
            title: self.outcome.title(),
            fault,
            verdict: count.verdict,
            cause: self.error.take(),
            hint: self.diagnosis().map(ToString::to_string),
            granted: std::mem::take(&mut self.granted),
            sends: self.sends,
            connection: self.connection,
            received: count.received,
            sent: count.sent,
            upstream_ids: self.upstream_ids.take(),
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let ended = Instant::now();
        let (took, phases) = self.phases.clone().end(ended);
        let (outcome, status, verdict) = (self.outcome.as_str(), class(self.status), self.verdict());
        let (received, sent) = (self.received(), self.sent);
        let count = Count { outcome, status, verdict, took, phases, received, sent };
        self.log(&count);
        if let Some(trace) = self.trace.take() {
            trace.end(|| self.end(&count, ended));
        }
        self.keep(&count, ended);
        // Last: whoever sees the count finds the line and the entry.
        self.lane.count(count, self.metrics.at(ended));
    }
}

fn class(status: Option<StatusCode>) -> &'static str {
    match status.map(|status| status.as_u16() / 100) {
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        _ => "none",
    }
}
