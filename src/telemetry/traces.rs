//! A span for each request, for OpenTelemetry's collectors, and the request's place in its caller's trace.
//!
//! Off unless somebody says where spans go: then nothing here runs, and `traceparent` passes as any field. A span that has
//! ended goes into a queue of fixed length, which never holds up a request; who sends what is in there is `app`'s business.
//! Imports `secret`, `clock`.

pub mod context;
pub mod otlp;
pub mod sampling;
pub mod span;

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

use self::context::Context;
use self::sampling::Sampling;
use self::span::{Asked, End, Ended, Span};
use crate::clock::Moment;
use crate::secret::LocalSecret;

/// What may wait for the collector: two seconds of spans at 1,000 a second, some 2 MiB. The SDKs' own default.
const MOST_WAITING: usize = 2_048;

/// Where spans go, which, and what they say of this program.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The collector's URL for spans.
    pub endpoint: String,
    /// What it wants to see of us.
    pub headers: Vec<(HeaderName, LocalSecret)>,
    /// Names and values that tell this program's spans from others'; `service.name` is among them.
    pub resource: Vec<(String, String)>,
    /// Which requests leave a span.
    pub sampling: Sampling,
}

/// Begins spans, and takes them when they end.
#[derive(Clone, Debug)]
pub struct Tracer {
    sampling: Sampling,
    queue: Sender<Ended>,
    counts: Counts,
}

/// What became of spans.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    sent: Counter,
    lost: Family<LossLabel, Counter>,
}

/// At most 3.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LossLabel {
    reason: &'static str,
}

/// Why a span did not get to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// More waited than may.
    QueueFull,
    /// The collector did not want it.
    Refused,
    /// The program ended before it was sent.
    Stopped,
}

impl Loss {
    const ALL: [Self; 3] = [Self::QueueFull, Self::Refused, Self::Stopped];

    fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }
}

/// A request that is in a trace.
#[derive(Debug)]
pub struct Traced {
    /// What the upstream is told in the place of what the caller said.
    onward: Onward,
    recorded: Option<(Box<Span>, Tracer)>,
}

/// The fields that lead a trace on.
#[derive(Clone, Debug)]
pub struct Onward {
    /// `traceparent`.
    pub parent: HeaderValue,
    /// Whether the caller's `tracestate` goes with it.
    pub state: State,
}

/// What becomes of a caller's `tracestate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It passes as it is.
    Passed,
    /// It is taken out: it breaks a rule, or it belongs to no trace.
    Dropped,
}

impl Tracer {
    /// A tracer, and where its spans wait to be sent.
    pub fn new(sampling: Sampling, counts: Counts) -> (Self, Receiver<Ended>) {
        let (queue, waiting) = mpsc::channel(MOST_WAITING);
        (Self { sampling, queue, counts }, waiting)
    }

    /// Finds a request's place in its trace, or begins one; `None` where the caller's own fields are to pass untouched.
    pub fn begin(&self, headers: &HeaderMap, asked: Asked<'_>, now: impl FnOnce() -> Moment) -> Option<Box<Traced>> {
        let above = Context::read(headers);
        let recorded = match above {
            Some(above) if self.sampling.takes(above) => true,
            // The trace goes on without us: whoever is above is the parent of whoever is below.
            Some(_) => return None,
            None => false,
        };
        let state = above.and_then(|_| context::state(headers));
        let place = match above {
            Some(above) => above.child(recorded),
            None => Context::root(|root| self.sampling.takes_root(root)),
        };
        let onward =
            Onward { parent: place.to_field()?, state: if state.is_some() { State::Passed } else { State::Dropped } };
        let recorded = place.is_sampled().then(|| {
            let Moment { wall, monotonic } = now();
            let above = (above.map(|above| above.span), state);
            (Box::new(Span::begin(place, above, asked, (wall, monotonic))), self.clone())
        });
        Some(Box::new(Traced { onward, recorded }))
    }
}

impl Traced {
    /// What the upstream is told.
    pub fn onward(&self) -> &Onward {
        &self.onward
    }

    /// Its span, if it leaves one.
    pub fn span(&mut self) -> Option<&mut Span> {
        self.recorded.as_mut().map(|(span, _)| &mut **span)
    }

    /// It is over.
    pub fn end(self, end: impl FnOnce() -> End) {
        let Some((span, tracer)) = self.recorded else { return };
        match tracer.queue.try_send(span.end(end())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => tracer.counts.lost(Loss::QueueFull, 1),
            Err(TrySendError::Closed(_)) => tracer.counts.lost(Loss::Stopped, 1),
        }
    }
}

impl Counts {
    /// Shows them in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("trace_spans_sent", "Spans that the collector has taken", self.sent.clone());
        registry.register("trace_spans_lost", "Spans that it did not get, by why", self.lost.clone());
        for reason in Loss::ALL {
            // There from the start: a rate wants a first zero.
            self.lost(reason, 0);
        }
    }

    /// The collector took so many.
    pub fn sent(&self, spans: usize) {
        self.sent.inc_by(spans as u64);
    }

    /// It did not get so many.
    pub fn lost(&self, reason: Loss, spans: u64) {
        self.lost.get_or_create(&LossLabel { reason: reason.as_str() }).inc_by(spans);
    }

    /// All that it did not get.
    pub fn lost_so_far(&self) -> u64 {
        Loss::ALL.iter().map(|reason| self.lost.get_or_create(&LossLabel { reason: reason.as_str() }).get()).sum()
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri, Version};
    use tokio::time::Instant;

    use super::sampling::Share;
    use super::*;
    use crate::clock::Clock;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn begin(tracer: &Tracer, fields: &[(&str, &str)]) -> Option<Box<Traced>> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let uri = Uri::from_static("/orders/42?secret=1");
        let asked = Asked { method: &Method::GET, uri: &uri, version: Version::HTTP_11 };
        tracer.begin(&headers, asked, || Clock::system().now())
    }

    fn end() -> End {
        End {
            at: Instant::now(),
            route: None,
            status: None,
            outcome: "delivered",
            failed: false,
            error: None,
            request_id: String::new(),
            upstream_id: None,
            sends: 1,
            received: 0,
            sent: 0,
        }
    }

    #[tokio::test]
    async fn a_request_goes_on_under_its_own_span() {
        let (tracer, mut spans) = Tracer::new(Sampling::default(), Counts::default());
        let traced = begin(&tracer, &[("traceparent", PARENT), ("tracestate", "a=1")]).unwrap();
        let onward = traced.onward().clone();
        assert_eq!(onward.state, State::Passed);
        traced.end(end);
        let Ended { span, .. } = spans.recv().await.unwrap();
        assert_eq!((span.parent.unwrap().get(), span.state.as_deref()), (0xf0_67aa_0ba9_02b7, Some("a=1")));
        assert_eq!(
            onward.parent,
            format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{:016x}-01", span.context.span).as_str()
        );
        assert_eq!(span.path, "/orders/42");
    }

    #[tokio::test]
    async fn a_trace_that_nobody_records_passes_untouched_and_one_without_a_parent_begins() {
        let (tracer, mut spans) = Tracer::new(Sampling::default(), Counts::default());
        assert!(begin(&tracer, &[("traceparent", &PARENT.replace("-01", "-00"))]).is_none());
        for parent in ["garbage", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
            let traced = begin(&tracer, &[("traceparent", parent), ("tracestate", "a=1")]).unwrap();
            assert_eq!(traced.onward().state, State::Dropped);
            traced.end(end);
            assert_eq!(spans.recv().await.unwrap().span.parent, None);
        }
        let none = Sampling { share: Share::NONE, ..Sampling::default() };
        let (tracer, mut spans) = Tracer::new(none, Counts::default());
        let traced = begin(&tracer, &[]).unwrap();
        assert!(traced.onward().parent.to_str().unwrap().ends_with("-00"));
        traced.end(end);
        assert!(spans.try_recv().is_err());
    }

    #[test]
    fn a_collector_that_takes_nothing_costs_spans_and_no_time() {
        let (tracer, spans) = Tracer::new(Sampling::default(), Counts::default());
        for _ in 0..3_000 {
            begin(&tracer, &[]).unwrap().end(end);
        }
        assert_eq!(tracer.counts.lost_so_far(), 3_000 - MOST_WAITING as u64);
        drop(spans);
        begin(&tracer, &[]).unwrap().end(end);
        assert_eq!(tracer.counts.lost_so_far(), 3_001 - MOST_WAITING as u64);
    }

    #[test]
    fn an_empty_batch_is_a_message_and_a_foreign_answer_is_none() {
        assert!(!otlp::request(&[("service.name".to_owned(), "x".to_owned())], &[]).is_empty());
        assert_eq!(otlp::rejected(b"<html>"), None);
        assert_eq!(otlp::rejected(b""), None);
        // partial_success { rejected_spans: 3, error_message: "no" }
        assert_eq!(otlp::rejected(b"\x0a\x06\x08\x03\x12\x02no"), Some((3, "no".to_owned())));
    }
}
