//! Times as RFC 3339 writes them, in UTC. Imports `clock`.

use std::fmt;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::clock::civil::Civil;

/// A time that is written as `2026-11-21T08:30:00.123Z`; one before 1970 is 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(pub(super) SystemTime);

impl Stamp {
    /// Whole seconds from `earlier` to this; 0 if it is the earlier one.
    pub(super) fn seconds_since(self, earlier: Self) -> u64 {
        self.0.duration_since(earlier.0).unwrap_or_default().as_secs()
    }

    /// The time of day alone: `08:30:00`.
    pub(super) fn clock(self) -> String {
        rfc3339(self.0).chars().skip(11).take(8).collect()
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&rfc3339(self.0))
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn rfc3339(time: SystemTime) -> String {
    let (mut text, time) = (String::new(), Civil::of(time));
    time.push_date(&mut text, "-");
    text.push('T');
    time.push_time(&mut text, ":");
    format!("{text}.{:03}Z", time.nanosecond / 1_000_000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_thousandth_of_a_second_is_fine_enough() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_mins(29_394_750) + Duration::from_micros(7_999);
        assert_eq!(rfc3339(time), "2025-11-21T00:30:00.007Z");
    }
}
