//! All that the status page tells, as data: what `/api/status` says as JSON and the page in HTML.
//!
//! Names, addresses, numbers and causes; never a credential, a field's value, a query or a body. Imports `auth`, `diagnosis`,
//! `message`, `proxy`, `telemetry`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

use super::time::Stamp;
use super::words;
use crate::auth::refreshing::{Chain, Status};
use crate::auth::shared::CacheStatus;
use crate::clock::Moment;
use crate::diagnosis::ledger::Seen;
use crate::diagnosis::{self, Finding};
use crate::message::gateway_ids::GatewayIds;
use crate::proxy::listing::Listed;
use crate::proxy::meter::LaneView;
use crate::telemetry::history::{Connection, Entry};
use crate::telemetry::pace::{At, Pace, STEP, Tally, View};
use crate::telemetry::phases::Phase;

/// The state of everything at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    /// This moment, and the start.
    pub(super) now: Stamp,
    pub(super) started: Stamp,
    /// `ready`, `starting` or `stopping`.
    pub(super) state: &'static str,
    pub(super) config: Config,
    pub(super) log_level: Option<String>,
    /// Over all routes, and requests without one.
    pub(super) total: Traffic,
    /// In the order of the config.
    pub(super) routes: Vec<Route>,
    /// What no route took; absent where there was none.
    pub(super) unrouted: Option<Traffic>,
    pub(super) credentials: Vec<Credential>,
    /// Why requests failed, the latest first.
    pub(super) causes: Vec<Cause>,
    /// What tokens are shared through; absent where they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_cache: Option<TokenCache>,
    /// The last, newest first.
    pub(super) requests: Vec<Request>,
}

/// The config that is served.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Config {
    pub(super) since: Stamp,
    pub(super) generation: u64,
    /// Why the last change was refused, until one is not.
    pub(super) refusal: Option<String>,
}

/// Requests that have ended, and those that have not.
#[derive(Debug, Serialize)]
pub(super) struct Traffic {
    pub(super) in_flight: i64,
    /// Since the start.
    pub(super) requests: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    /// In the last five minutes, and the rate just now.
    pub(super) recent: Tally,
    pub(super) per_second: f64,
    pub(super) median_ms: Option<f64>,
    pub(super) p95_ms: Option<f64>,
    pub(super) series: Series,
}

/// The last five minutes, oldest first; empty where nothing happened.
#[derive(Debug, Serialize)]
pub(super) struct Series {
    pub(super) step_seconds: u64,
    pub(super) requests: Vec<u64>,
    pub(super) refused: Vec<u64>,
    pub(super) failed: Vec<u64>,
    pub(super) p95_ms: Vec<Option<f64>>,
}

/// A route and what goes through it.
#[derive(Debug, Serialize)]
pub(super) struct Route {
    pub(super) name: String,
    pub(super) listen: Option<String>,
    pub(super) host: Option<String>,
    pub(super) path: String,
    pub(super) methods: Option<Vec<String>>,
    pub(super) upstream: String,
    pub(super) dials: Option<String>,
    pub(super) proxy: Option<String>,
    pub(super) auth: Option<String>,
    pub(super) sets: Vec<String>,
    pub(super) removes: Vec<String>,
    #[serde(flatten)]
    pub(super) traffic: Traffic,
}

/// How a credential fares.
#[derive(Debug, Serialize)]
pub(super) struct Credential {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) principal: Option<String>,
    pub(super) scopes: Option<String>,
    /// `valid`, `failing` (valid, but the last try failed), `used-on` (expired), `none` or `waiting` (for the first try).
    pub(super) state: &'static str,
    pub(super) fetched: Option<Stamp>,
    pub(super) expires: Option<Stamp>,
    pub(super) life_seconds: Option<u64>,
    pub(super) next_try: Option<Stamp>,
    pub(super) fetches: u64,
    pub(super) failures: u64,
    /// Why the last try failed, as the log has it.
    pub(super) cause: Option<String>,
    /// What is probably behind that and what to do, from whoever looked into it.
    pub(super) hint: Option<String>,
}

/// What was found out about failures that are alike: of one route, with one likeliest cause.
#[derive(Debug, Serialize)]
pub(super) struct Cause {
    pub(super) route: String,
    /// As in `x-countersign-hint` and in docs/troubleshooting.md.
    pub(super) code: &'static str,
    pub(super) is: &'static str,
    pub(super) fix: &'static str,
    /// What spoke for it, the last time.
    pub(super) evidence: Option<String>,
    /// What else it may be, the likeliest first.
    pub(super) or: Vec<&'static str>,
    pub(super) times: u64,
    pub(super) first: Stamp,
    pub(super) last: Stamp,
}

/// What tokens are shared through.
#[derive(Debug, Serialize)]
pub(super) struct TokenCache {
    /// Where it is.
    pub(super) store: String,
    /// `in-use`, `garbage` (with an entry that cannot be read) or `failing` (tokens are fetched without it).
    pub(super) state: &'static str,
    pub(super) failing_seconds: Option<u64>,
    /// Tokens that were wanted, by how they came: `found`, `waited`, `fetched`, `alone` or `impatient`.
    pub(super) tokens: BTreeMap<&'static str, u64>,
    /// Failed calls, by cause.
    pub(super) errors: BTreeMap<&'static str, u64>,
    pub(super) invalidations: u64,
    /// Why the last call failed, as the log has it.
    pub(super) cause: Option<String>,
    /// What is probably behind that and what to do.
    pub(super) hint: Option<String>,
}

impl From<&CacheStatus> for TokenCache {
    fn from(status: &CacheStatus) -> Self {
        let CacheStatus { store, fault, failing_for, ways, errors, invalidations } = status;
        Self {
            store: store.clone(),
            state: match fault {
                None => "in-use",
                Some(fault) if fault.shuns() => "failing",
                Some(_) => "garbage",
            },
            failing_seconds: failing_for.map(|time| time.as_secs()),
            tokens: ways.iter().map(|(way, count)| (way.as_str(), *count)).collect(),
            errors: errors.iter().copied().collect(),
            invalidations: *invalidations,
            cause: fault.as_ref().map(|fault| Chain(&**fault).to_string()),
            hint: status.diagnosis().map(|diagnosis| diagnosis.to_string()),
        }
    }
}

/// A request that has ended.
#[derive(Debug, Serialize)]
pub(super) struct Request {
    #[serde(skip)]
    pub(super) number: u64,
    pub(super) id: String,
    pub(super) ended: Stamp,
    pub(super) method: Option<String>,
    pub(super) path: String,
    pub(super) route: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) outcome: &'static str,
    pub(super) title: &'static str,
    pub(super) fault: Option<&'static str>,
    /// `fine`, `refused` or `failed`.
    pub(super) verdict: &'static str,
    pub(super) cause: Option<String>,
    /// What such an end means.
    pub(super) meaning: Option<&'static str>,
    /// What is found out about this one: its causes, the likeliest first, a line each.
    pub(super) hint: Option<String>,
    pub(super) ms: f64,
    pub(super) phases_ms: PhasesMs,
    pub(super) sends: u8,
    pub(super) connection: Option<&'static str>,
    /// Names of the fields that the credential added.
    pub(super) added: Vec<String>,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// What API Gateway calls it.
    pub(super) aws_request_id: Option<String>,
    pub(super) aws_extended_id: Option<String>,
}

/// The parts of a request's time.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct PhasesMs {
    pub(super) receive: f64,
    pub(super) credential: f64,
    pub(super) connect: f64,
    pub(super) first_byte: f64,
    pub(super) body: f64,
}

impl PhasesMs {
    /// Each with its name.
    pub(super) fn named(self) -> [(&'static str, f64); 5] {
        let Self { receive, credential, connect, first_byte, body } = self;
        let parts = [receive, credential, connect, first_byte, body];
        let mut names = Phase::ALL.map(Phase::as_str).into_iter();
        parts.map(|part| (names.next().unwrap_or_default(), part))
    }
}

impl Traffic {
    /// Of all lanes.
    pub(super) fn sum<'a>(lanes: impl IntoIterator<Item = &'a LaneView>, at: At) -> Self {
        let (mut pace, mut in_flight) = (Pace::default(), 0);
        for lane in lanes {
            pace.merge(&lane.pace);
            in_flight += lane.in_flight;
        }
        let View { total, recent, rate, median, p95, steps, slow } = pace.view(at);
        let Tally { requests, refused, failed } = total;
        let series = if recent.requests == 0 { Series::empty() } else { Series::of(&steps, &slow) };
        let (median_ms, p95_ms) = (median.map(ms), p95.map(ms));
        Self { in_flight, requests, refused, failed, recent, per_second: rounded(rate), median_ms, p95_ms, series }
    }
}

impl Series {
    fn empty() -> Self {
        Self::of(&[], &[])
    }

    fn of(steps: &[Tally], slow: &[Option<Duration>]) -> Self {
        Self {
            step_seconds: STEP.as_secs(),
            requests: steps.iter().map(|step| step.requests).collect(),
            refused: steps.iter().map(|step| step.refused).collect(),
            failed: steps.iter().map(|step| step.failed).collect(),
            p95_ms: slow.iter().map(|slow| slow.map(ms)).collect(),
        }
    }
}

impl Route {
    /// A route and its lane, if a request ever came.
    pub(super) fn new(listed: Listed, lanes: &[LaneView], at: At) -> Self {
        let Listed { name, listen, host, path, methods, upstream, dials, proxy, auth, sets, removes } = listed;
        let traffic = Traffic::sum(lanes.iter().filter(|lane| lane.route.as_ref() == Some(&name)), at);
        let (name, auth) = (name.to_string(), auth.map(|auth| auth.to_string()));
        Self { name, listen, host, path, methods, upstream, dials, proxy, auth, sets, removes, traffic }
    }
}

impl Credential {
    /// What may be said of it.
    pub(super) fn new(status: &Status, now: SystemTime) -> Self {
        let lives = status.expires.is_none_or(|end| end > now);
        let state = match (status.usable, &status.failure) {
            (true, _) if !lives => "used-on",
            (true, Some(_)) => "failing",
            (true, None) => "valid",
            (false, _) if status.tried => "none",
            (false, _) => "waiting",
        };
        Self {
            name: status.name.to_string(),
            kind: status.kind.clone(),
            principal: status.about.principal.clone(),
            scopes: status.about.scopes.clone(),
            state,
            fetched: status.age.and_then(|age| now.checked_sub(age)).map(Stamp),
            expires: status.expires.map(Stamp),
            life_seconds: status.life.map(|life| life.as_secs()),
            next_try: status.retry_in.map(|wait| Stamp(now + wait)),
            fetches: status.fetched,
            failures: status.failed,
            cause: status.failure.as_ref().map(|failure| Chain(&**failure).to_string()),
            hint: status.diagnosis().map(|diagnosis| diagnosis.to_string()),
        }
    }

    /// Whether somebody should look at it.
    pub(super) fn is_troubled(&self) -> bool {
        matches!(self.state, "failing" | "used-on" | "none")
    }
}

impl Cause {
    /// A cause of the ledger.
    pub(super) fn new(route: &str, seen: &Seen) -> Self {
        let Seen { diagnosis, times, first, last } = seen;
        let Finding { cause, evidence } = diagnosis.first();
        let diagnosis::Entry { code, is, fix, .. } = cause.entry();
        Self {
            route: route.to_owned(),
            code,
            is,
            fix,
            evidence: evidence.clone(),
            or: diagnosis.findings().skip(1).map(|other| other.cause.code()).collect(),
            times: *times,
            first: Stamp(*first),
            last: Stamp(*last),
        }
    }
}

impl Request {
    /// An entry of the history.
    pub(super) fn new(entry: Entry, now: Moment) -> Self {
        let meaning = words::meaning(&entry);
        let ids = entry.upstream_ids.as_deref();
        let [receive, credential, connect, first_byte, body] = entry.phases.map(ms);
        Self {
            number: entry.number,
            id: entry.request_id.to_str().unwrap_or_default().to_owned(),
            ended: Stamp(wall(entry.ended, now)),
            method: entry.method.as_ref().map(ToString::to_string),
            path: entry.path,
            route: entry.route.as_ref().map(ToString::to_string),
            status: entry.status.map(|status| status.as_u16()),
            outcome: entry.outcome,
            title: entry.title,
            fault: entry.fault,
            verdict: entry.verdict.as_str(),
            cause: entry.cause,
            meaning,
            hint: entry.hint,
            ms: ms(entry.took),
            phases_ms: PhasesMs { receive, credential, connect, first_byte, body },
            sends: entry.sends,
            connection: entry.connection.map(Connection::as_str),
            added: entry.granted.iter().map(ToString::to_string).collect(),
            received: entry.received,
            sent: entry.sent,
            aws_request_id: ids.and_then(GatewayIds::request).map(ToOwned::to_owned),
            aws_extended_id: ids.and_then(GatewayIds::extended).map(ToOwned::to_owned),
        }
    }
}

/// The time of day of a moment that is past.
pub(super) fn wall(then: Instant, now: Moment) -> SystemTime {
    let ago = now.monotonic.saturating_duration_since(then);
    now.wall.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Milliseconds, to the microsecond.
fn ms(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3)
}

fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}
