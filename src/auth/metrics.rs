//! What is shown of credentials: how they fare, never what they are. Read when somebody asks, so it costs a request nothing.
//!
//! Imports `auth::refreshing`.

use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::Roster;
use super::shared::CacheStatus;

/// Shows all credentials of a config. One label value a credential.
#[derive(Debug)]
pub struct CredentialMetrics {
    credentials: Roster,
}

impl CredentialMetrics {
    /// Shows these.
    pub fn new(credentials: Roster) -> Self {
        Self { credentials }
    }
}

impl Collector for CredentialMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let statuses = self.credentials.statuses();
        let mut family = encoder.encode_descriptor(
            "credential_usable",
            "1 if a request would get it now",
            None,
            MetricType::Gauge,
        )?;
        for status in &statuses {
            let labels = [("credential", &*status.name)];
            ConstGauge::new(i64::from(status.usable)).encode(family.encode_family(&labels)?)?;
        }
        let help = "End of the credential held, as Unix time";
        let unit = Unit::Seconds;
        let mut family =
            encoder.encode_descriptor("credential_expiry_timestamp", help, Some(&unit), MetricType::Gauge)?;
        for status in &statuses {
            let Some(end) = status.expires else { continue };
            let since = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let labels = [("credential", &*status.name)];
            ConstGauge::new(since.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
        let help = "1 if the last try to get one failed, whether or not an older one is still good";
        let mut family = encoder.encode_descriptor("credential_failing", help, None, MetricType::Gauge)?;
        for status in &statuses {
            let labels = [("credential", &*status.name)];
            ConstGauge::new(i64::from(status.failure.is_some())).encode(family.encode_family(&labels)?)?;
        }
        let help = "Since the credential held was fetched";
        let mut family = encoder.encode_descriptor("credential_age", help, Some(&unit), MetricType::Gauge)?;
        for status in &statuses {
            let Some(age) = status.age else { continue };
            let labels = [("credential", &*status.name)];
            ConstGauge::new(age.as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
        let help = "Tries to get a credential, by how they ended";
        let mut family = encoder.encode_descriptor("credential_fetches", help, None, MetricType::Counter)?;
        for status in &statuses {
            for (outcome, count) in [("ok", status.fetched), ("failed", status.failed)] {
                let labels = [("credential", &*status.name), ("outcome", outcome)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        self.credentials.cache().map_or(Ok(()), |cache| encode_cache(&cache, &mut encoder))
    }
}

/// Label values: five ways, ten causes.
fn encode_cache(cache: &CacheStatus, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let help = "0 while the token cache fails and tokens are fetched without it";
    let metric = encoder.encode_descriptor("token_cache_up", help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::from(!cache.is_shunned())).encode(metric)?;
    let help = "Tokens that were wanted, by how they came";
    let mut family = encoder.encode_descriptor("token_cache_tokens", help, None, MetricType::Counter)?;
    for (way, count) in &cache.ways {
        ConstCounter::new(*count).encode(family.encode_family(&[("way", way.as_str())])?)?;
    }
    let help = "Failed calls of the token cache, by cause";
    let mut family = encoder.encode_descriptor("token_cache_errors", help, None, MetricType::Counter)?;
    for (cause, count) in &cache.errors {
        ConstCounter::new(*count).encode(family.encode_family(&[("cause", *cause)])?)?;
    }
    let help = "Shared tokens that this sidecar took out because an API refused them";
    let metric = encoder.encode_descriptor("token_cache_invalidations", help, None, MetricType::Counter)?;
    ConstCounter::new(cache.invalidations).encode(metric)
}
