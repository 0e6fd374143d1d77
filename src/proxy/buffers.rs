//! What of the budget for held bodies is taken, read when somebody asks. Imports `message`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::message::body::Budget;

/// Shows a budget.
#[derive(Debug)]
pub(super) struct Buffers(pub(super) Budget);

impl Collector for Buffers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let values = [
            ("buffer_used", "Body bytes held for signing", self.0.used()),
            ("buffer_budget", "Body bytes that may be held together", self.0.total()),
        ];
        for (name, help, value) in values {
            let metric = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)?;
        }
        Ok(())
    }
}
