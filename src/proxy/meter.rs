//! What is counted of requests: for `/metrics`, and for the status page.
//!
//! A request counts in the lane of its route, which it looks up once. Labels are routes' names and words of the program's
//! own, so their number is bounded by the config. Imports `telemetry`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::telemetry::history::{Connection, History};
use crate::telemetry::pace::{At, Pace, Verdict};
use crate::telemetry::phases::Phase;

/// Seconds; the finest tells a local answer from an API's, the coarsest is API Gateway's own limit of 30 s.
const DURATIONS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// The same for parts of a request, of which there are five a route.
const PARTS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// A signature takes some ten microseconds; what takes longer has hashed, or waited for a processor.
const SIGNING: [f64; 6] = [0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.001, 0.01];

/// How nearly all requests end: looked up once a lane, and not for each.
const USUAL: (&str, &str) = ("delivered", "2xx");

/// What is counted of requests.
#[derive(Debug)]
pub struct Metrics {
    families: Families,
    /// One a route that ever had a request.
    lanes: RwLock<BTreeMap<Arc<str>, Arc<Lane>>>,
    /// For requests without any.
    nowhere: Arc<Lane>,
    history: History,
    started: Instant,
}

/// What counts the requests of one route.
#[derive(Debug)]
pub struct Lane {
    name: Name,
    requests: Family<RequestLabels, Counter>,
    /// Of these, the one that counts nearly all.
    delivered: OnceLock<Counter>,
    durations: Histogram,
    /// In the order of [`Phase::ALL`].
    phases: [Histogram; 5],
    signing: Histogram,
    made: Counter,
    kept: Counter,
    received: Counter,
    sent: Counter,
    /// Of all routes.
    all_in_flight: Gauge,
    /// Of this one; the status page shows it.
    in_flight: Gauge,
    pace: Mutex<Pace>,
}

/// How a lane stands.
#[derive(Clone, Debug)]
pub struct LaneView {
    /// Its route; none is that of requests without one.
    pub route: Option<Arc<str>>,
    /// Requests between head and end of answer.
    pub in_flight: i64,
    /// Those that have ended.
    pub pace: Pace,
}

#[derive(Debug)]
struct Families {
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabel, Histogram>,
    phases: Family<PhaseLabels, Histogram>,
    signing: Family<RouteLabel, Histogram>,
    connections: Family<ConnectionLabels, Counter>,
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

/// At most routes × 5.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    route: Name,
    phase: &'static str,
}

/// At most routes × 2.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    route: Name,
    connection: &'static str,
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

/// A request that has ended, as it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    pub(super) outcome: &'static str,
    /// `2xx` and so on.
    pub(super) status: &'static str,
    pub(super) verdict: Verdict,
    pub(super) took: Duration,
    pub(super) phases: [Duration; 5],
    pub(super) received: u64,
    pub(super) sent: u64,
}

impl Metrics {
    /// New counters, all shown by `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let families = Families::register(registry);
        let nowhere = Arc::new(families.lane(None));
        let (lanes, history) = (RwLock::default(), History::default());
        Self { families, lanes, nowhere, history, started: Instant::now() }
    }

    /// The last requests.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// This moment, as the lanes' paces count.
    pub fn at(&self, now: Instant) -> At {
        At::after(now.saturating_duration_since(self.started))
    }

    /// How all lanes stand; the one of requests without a route comes first.
    pub fn lanes(&self) -> Vec<LaneView> {
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(&self.nowhere).chain(lanes.values()).map(|lane| lane.view()).collect()
    }

    /// The lane of requests without a route; one more is in flight there.
    pub(super) fn nowhere(&self) -> Arc<Lane> {
        self.nowhere.enter();
        Arc::clone(&self.nowhere)
    }

    /// The lane of `route`, to which a request of the lane `from` has come.
    pub(super) fn change(&self, from: &Lane, route: &Arc<str>) -> Arc<Lane> {
        let known = self.lanes.read().unwrap_or_else(PoisonError::into_inner).get(route).map(Arc::clone);
        let lane = known.unwrap_or_else(|| {
            let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
            let lane = || Arc::new(self.families.lane(Some(Arc::clone(route))));
            Arc::clone(lanes.entry(Arc::clone(route)).or_insert_with(lane))
        });
        from.leave();
        lane.enter();
        lane
    }
}

impl Lane {
    /// The route's name.
    pub(super) fn route(&self) -> Option<&Arc<str>> {
        self.name.0.as_ref()
    }

    /// A signature took so long.
    pub(super) fn signed(&self, took: Duration) {
        self.signing.observe(took.as_secs_f64());
    }

    /// A request has a connection to be sent on.
    pub(super) fn connected(&self, connection: Connection) {
        match connection {
            Connection::New => self.made.inc(),
            Connection::Kept => self.kept.inc(),
        };
    }

    /// A request of this lane has ended.
    pub(super) fn count(&self, count: Count, at: At) {
        let Count { outcome, status, verdict, took, phases, received, sent } = count;
        self.leave();
        let labels = || RequestLabels { route: self.name.clone(), outcome, status };
        if (outcome, status) == USUAL {
            self.delivered.get_or_init(|| self.requests.get_or_create_owned(&labels())).inc();
        } else {
            self.requests.get_or_create(&labels()).inc();
        }
        self.durations.observe(took.as_secs_f64());
        for (histogram, spent) in self.phases.iter().zip(phases) {
            // A phase that a request did not come to is no fast one.
            if !spent.is_zero() {
                histogram.observe(spent.as_secs_f64());
            }
        }
        if received > 0 {
            self.received.inc_by(received);
        }
        if sent > 0 {
            self.sent.inc_by(sent);
        }
        self.pace().count(at, took, verdict);
    }

    fn enter(&self) {
        self.all_in_flight.inc();
        self.in_flight.inc();
    }

    fn leave(&self) {
        self.all_in_flight.dec();
        self.in_flight.dec();
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> LaneView {
        LaneView { route: self.name.0.clone(), in_flight: self.in_flight.get(), pace: self.pace().clone() }
    }
}

impl Families {
    fn register(registry: &mut Registry) -> Self {
        let families = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
            phases: Family::new_with_constructor(|| Histogram::new(PARTS)),
            signing: Family::new_with_constructor(|| Histogram::new(SIGNING)),
            connections: Family::default(),
            in_flight: Gauge::default(),
            received: Family::default(),
            sent: Family::default(),
        };
        let Self { requests, durations, phases, signing, connections, in_flight, received, sent } = &families;
        registry.register("requests", "Requests that have ended, by how", requests.clone());
        let help = "From a request's head to the end of its answer";
        registry.register_with_unit("request_duration", help, Unit::Seconds, durations.clone());
        let help = "The parts of that: receive, credential, connect, first_byte, body";
        registry.register_with_unit("request_phase_duration", help, Unit::Seconds, phases.clone());
        let help = "What a SigV4 signature takes, once the body is hashed and the key is there";
        registry.register_with_unit("signing_duration", help, Unit::Seconds, signing.clone());
        let help = "Requests sent to an upstream, by whether their connection was kept from an earlier one";
        registry.register("upstream_sends", help, connections.clone());
        registry.register("requests_in_flight", "Requests now between head and end of answer", in_flight.clone());
        registry.register_with_unit("request_body", "Body bytes taken from clients", Unit::Bytes, received.clone());
        registry.register_with_unit("response_body", "Body bytes sent to clients", Unit::Bytes, sent.clone());
        families
    }

    fn lane(&self, route: Option<Arc<str>>) -> Lane {
        let name = Name(route);
        let label = RouteLabel { route: name.clone() };
        let phase =
            |phase: Phase| self.phases.get_or_create_owned(&PhaseLabels { route: name.clone(), phase: phase.as_str() });
        let connection = |connection: Connection| {
            let labels = ConnectionLabels { route: name.clone(), connection: connection.as_str() };
            self.connections.get_or_create_owned(&labels)
        };
        Lane {
            requests: self.requests.clone(),
            delivered: OnceLock::new(),
            durations: self.durations.get_or_create_owned(&label),
            phases: Phase::ALL.map(phase),
            signing: self.signing.get_or_create_owned(&label),
            made: connection(Connection::New),
            kept: connection(Connection::Kept),
            received: self.received.get_or_create_owned(&label),
            sent: self.sent.get_or_create_owned(&label),
            all_in_flight: self.in_flight.clone(),
            in_flight: Gauge::default(),
            pace: Mutex::default(),
            name,
        }
    }
}
