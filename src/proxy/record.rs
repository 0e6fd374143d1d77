//! One line and one count for every request, however it ends.
//!
//! An [`Exchange`] lives as long as its request; what it knows when it is dropped is what is recorded, so a request that
//! the client abandons is counted like any other. No query, no field value and no body is ever recorded. Imports
//! `message`, `auth`.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use super::outcome::{Fault, Outcome, ProxyError};
use crate::auth::refreshing::Chain;
use crate::message::body::{Turn, Upload};

/// Seconds; the finest tells a local answer from an API's, the coarsest is API Gateway's own limit of 30 s.
const DURATIONS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// Longer paths are cut in the log.
const LONGEST_LOGGED_PATH: usize = 512;

/// What is counted of requests.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabel, Histogram>,
    in_flight: Gauge,
    received: Family<RouteLabel, Counter>,
    sent: Family<RouteLabel, Counter>,
}

/// At most routes × outcomes (22) × status classes (6).
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Name,
    outcome: &'static str,
    status: &'static str,
}

/// One value a route, and one for requests without any.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name(Option<Arc<str>>);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        encoder.write_str(self.0.as_deref().unwrap_or("none"))
    }
}

impl Metrics {
    /// New counters, all shown by `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            in_flight: Gauge::default(),
            received: Family::default(),
            sent: Family::default(),
        };
        registry.register("requests", "Requests that have ended, by how", metrics.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "From a request's head to the end of its answer",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "requests_in_flight",
            "Requests now between head and end of answer",
            metrics.in_flight.clone(),
        );
        let bytes = Unit::Bytes;
        registry.register_with_unit(
            "request_body",
            "Body bytes taken from clients",
            bytes.clone(),
            metrics.received.clone(),
        );
        registry.register_with_unit("response_body", "Body bytes sent to clients", bytes, metrics.sent.clone());
        metrics
    }
}

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
    log: AccessLog,
    started: Instant,
    request_id: HeaderValue,
    /// Unknown if the request did not come so far.
    method: Option<Method>,
    path: String,
    route: Option<Arc<str>>,
    status: Option<StatusCode>,
    outcome: Outcome,
    error: Option<String>,
    upload: Option<Arc<Upload>>,
    /// Through a tunnel, from the client.
    carried: u64,
    sent: u64,
}

impl Exchange {
    /// Begins to record.
    pub fn begin(
        metrics: Arc<Metrics>,
        log: AccessLog,
        method: Option<Method>,
        path: &str,
        request_id: HeaderValue,
    ) -> Self {
        metrics.in_flight.inc();
        let path = match log {
            AccessLog::All => path.chars().take(LONGEST_LOGGED_PATH).collect(),
            AccessLog::Faults => String::new(),
        };
        Self {
            metrics,
            log,
            started: Instant::now(),
            request_id,
            method,
            path,
            route: None,
            status: None,
            outcome: Outcome::ClientAborted,
            error: None,
            upload: None,
            carried: 0,
            sent: 0,
        }
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
        self.route = Some(Arc::clone(route));
    }

    /// Its body can be followed here.
    pub fn uploading(&mut self, upload: &Arc<Upload>) {
        self.upload = Some(Arc::clone(upload));
    }

    /// Whether its body was read to its end.
    pub fn is_upload_over(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| upload.turn() == Turn::Over)
    }

    /// An answer with this status is on its way to the client.
    pub fn answering(&mut self, status: StatusCode) {
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

    /// countersign answers by itself.
    pub fn refused(&mut self, error: &ProxyError) {
        self.ended(Outcome::Refused(error.code()), Some(error));
        self.status = Some(error.code().status());
    }

    /// Bytes taken from the client behind the head.
    fn received(&self) -> u64 {
        self.upload.as_ref().map_or(0, |upload| upload.passed()) + self.carried
    }

    fn log(&self) {
        let fault = match self.outcome {
            Outcome::Delivered | Outcome::Answered => None,
            Outcome::ClientAborted => Some(Fault::Client),
            Outcome::Truncated => Some(Fault::Upstream),
            Outcome::Refused(code) => Some(code.fault()),
        };
        let request_id = self.request_id.to_str().unwrap_or_default();
        let route = self.route.as_deref().unwrap_or("none");
        let status = self.status.map_or(0, |status| status.as_u16());
        let outcome = self.outcome.as_str();
        let milliseconds = self.started.elapsed().as_secs_f64() * 1_000.0;
        let received = self.received();
        let method = self.method.as_ref().map_or("-", Method::as_str);
        let (path, sent, error) = (&self.path, self.sent, self.error.as_deref());
        match fault {
            Some(fault @ (Fault::Countersign | Fault::Credentials | Fault::Upstream)) => tracing::warn!(
                target: "access", request_id, %method, path, route, status, outcome, fault = fault.as_str(), error,
                ms = milliseconds, received, sent, "request failed"
            ),
            Some(fault @ Fault::Client) if self.log == AccessLog::All => tracing::info!(
                target: "access", request_id, %method, path, route, status, outcome, fault = fault.as_str(), error,
                ms = milliseconds, received, sent, "request refused"
            ),
            None if self.log == AccessLog::All => tracing::info!(
                target: "access", request_id, %method, path, route, status, outcome, ms = milliseconds, received, sent,
                "request"
            ),
            Some(_) | None => {}
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Metrics { requests, durations, in_flight, received, sent } = &*self.metrics;
        in_flight.dec();
        let route = Name(self.route.clone());
        let status = class(self.status);
        let labels = RequestLabels { route: route.clone(), outcome: self.outcome.as_str(), status };
        requests.get_or_create(&labels).inc();
        let label = RouteLabel { route };
        durations.get_or_create(&label).observe(self.started.elapsed().as_secs_f64());
        let taken = self.received();
        if taken > 0 {
            received.get_or_create(&label).inc_by(taken);
        }
        if self.sent > 0 {
            sent.get_or_create(&label).inc_by(self.sent);
        }
        self.log();
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
