//! How many connections there are: each is counted from its making to its drop, wherever it is meanwhile.
//!
//! By upstream, as the config names it; origins of one name that differ in how they are reached count together. Imports
//! nothing of ours but its neighbors.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Connections, lock};
use crate::route::Origin;
use crate::tls::Fingerprint;

/// The connections that a snapshot holds, by origin, and what was in their certificate files.
pub(super) type Origins = HashMap<Origin, (Fingerprint, Weak<Connections>)>;

/// Everything that is counted; upstreams of configs before this one stay, so that what only grows never shrinks.
#[derive(Clone, Debug, Default)]
pub(super) struct Census {
    pub(super) origins: Arc<Mutex<Origins>>,
    tallies: Arc<Mutex<BTreeMap<String, Tally>>>,
}

/// Of one upstream.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    made: AtomicU64,
    open: AtomicUsize,
}

/// A connection, as long as this lives.
#[derive(Debug)]
pub(super) struct Open(Tally);

impl Census {
    /// What counts the connections of `origin`.
    pub(super) fn tally(&self, origin: &Origin) -> Tally {
        lock(&self.tallies).entry(origin.authority.to_string()).or_default().clone()
    }

    /// By upstream: those that wait for a request.
    fn idle(&self) -> BTreeMap<String, usize> {
        let mut idle: BTreeMap<String, usize> = BTreeMap::new();
        let known: Vec<(String, Arc<Connections>)> = {
            let origins = lock(&self.origins);
            let alive = origins.iter().filter_map(|(origin, (_, known))| Some((origin, known.upgrade()?)));
            alive.map(|(origin, known)| (origin.authority.to_string(), known)).collect()
        };
        for (upstream, connections) in known {
            *idle.entry(upstream).or_default() += connections.idle();
        }
        idle
    }
}

impl Tally {
    /// One more was made.
    pub(super) fn open(&self) -> Open {
        self.0.made.fetch_add(1, Ordering::Relaxed);
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// At most upstreams × 2, and upstreams.
impl Collector for Census {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let idle = self.idle();
        let tallies = lock(&self.tallies).clone();
        let help = "Connections to an upstream, by whether a request is on them";
        let mut family = encoder.encode_descriptor("upstream_connections", help, None, MetricType::Gauge)?;
        for (upstream, tally) in &tallies {
            let open = tally.0.open.load(Ordering::Relaxed);
            // Read one after the other: a connection may have gone in between.
            let idle = idle.get(upstream).copied().unwrap_or_default().min(open);
            for (state, number) in [("idle", idle), ("in_use", open - idle)] {
                let labels = [("upstream", upstream.as_str()), ("state", state)];
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                ConstGauge::new(number).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Connections that were made to an upstream";
        let mut family = encoder.encode_descriptor("upstream_connections_opened", help, None, MetricType::Counter)?;
        for (upstream, tally) in &tallies {
            let labels = [("upstream", upstream.as_str())];
            let made = tally.0.made.load(Ordering::Relaxed);
            ConstCounter::new(made).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
