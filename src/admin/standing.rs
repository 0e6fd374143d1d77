//! Which config is served, and what came of the last try to change it: for `/readyz` and `/metrics`.
//!
//! Imports nothing of ours.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::report::Config;
use super::time::Stamp;

/// The config that is served; its clones are the same one.
#[derive(Clone, Debug)]
pub struct Standing(Arc<Mutex<State>>);

#[derive(Clone, Debug)]
struct State {
    /// Counts configs from 1.
    generation: u64,
    hash: String,
    since: SystemTime,
    applied: u64,
    refused: u64,
    /// Why the last change was refused, until one is not.
    refusal: Option<String>,
    /// Keys that are read at a start alone, and were changed since.
    postponed: Vec<&'static str>,
}

impl Standing {
    /// The config of a start.
    pub fn new(hash: String, now: SystemTime) -> Self {
        let (refusal, postponed) = (None, Vec::new());
        let state = State { generation: 1, hash, since: now, applied: 0, refused: 0, refusal, postponed };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Another is served from now on, but for the keys in `postponed`. Returns its number.
    pub fn applied(&self, hash: String, now: SystemTime, postponed: Vec<&'static str>) -> u64 {
        let mut state = self.state();
        state.generation += 1;
        state.applied += 1;
        (state.hash, state.since, state.refusal, state.postponed) = (hash, now, None, postponed);
        state.generation
    }

    /// Another could not be used, because of `reason`, which must hold no secret. Returns the number of the one that stays.
    pub fn refused(&self, reason: String) -> u64 {
        let mut state = self.state();
        state.refused += 1;
        state.refusal = Some(reason);
        state.generation
    }

    /// The same as data.
    pub(super) fn report(&self) -> Config {
        let State { generation, since, refusal, .. } = self.state().clone();
        Config { since: Stamp(since), generation, refusal }
    }

    /// `config: generation 2, hash 1a2b3c4d`, and what is wrong, in lines.
    pub fn describe(&self) -> String {
        let State { generation, hash, refusal, postponed, .. } = &*self.state();
        let mut text = format!("config: generation {generation}, hash {hash}\n");
        // Writing to a String cannot go wrong.
        if !postponed.is_empty() {
            let _infallible = writeln!(text, "config: changed, and read only at a start: {}", postponed.join(", "));
        }
        if let Some(reason) = refusal {
            let _infallible = writeln!(text, "config: the last change was refused, generation {generation} stays:");
            for line in reason.lines() {
                let _infallible = writeln!(text, "  {line}");
            }
        }
        text
    }

    /// The part of [`Standing::describe`] that is for anybody: that something is wrong, not what.
    pub fn summary(&self) -> String {
        let State { generation, refusal, .. } = &*self.state();
        match refusal {
            None => String::new(),
            Some(_) => format!("config: the last change was refused, generation {generation} stays\n"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let State { generation, hash, since, applied, refused, refusal, .. } = self.state().clone();
        let help = "Which config is served, counted from the start";
        let gauge = MetricType::Gauge;
        let metric = encoder.encode_descriptor("config_generation", help, None, gauge)?;
        ConstGauge::new(i64::try_from(generation).unwrap_or(i64::MAX)).encode(metric)?;
        let help = "The config that is served, by a hash of its text";
        let mut family = encoder.encode_descriptor("config_hash", help, None, gauge)?;
        // One series: the others before it are gone with their configs.
        ConstGauge::new(1_i64).encode(family.encode_family(&[("hash", hash.as_str())])?)?;
        let help = "Configs that were to take the place of another, by what came of it";
        let mut family = encoder.encode_descriptor("config_reloads", help, None, MetricType::Counter)?;
        for (result, count) in [("applied", applied), ("refused", refused)] {
            ConstCounter::new(count).encode(family.encode_family(&[("result", result)])?)?;
        }
        let help = "0 if the last change of the config was refused";
        let metric = encoder.encode_descriptor("config_last_reload_successful", help, None, gauge)?;
        ConstGauge::new(i64::from(refusal.is_none())).encode(metric)?;
        let help = "When the config that is served was taken up, as Unix time";
        let unit = Unit::Seconds;
        let metric = encoder.encode_descriptor("config_last_success_timestamp", help, Some(&unit), gauge)?;
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        ConstGauge::new(since.as_secs_f64()).encode(metric)
    }
}
