//! A time as the calendar has it, in UTC, for all who write one down. Imports nothing of ours.

use std::time::SystemTime;

/// Year to nanosecond of a time; one before 1970 is 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Four digits for the next 8,000 years.
    pub year: u32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 59.
    pub second: u32,
    /// Below a second.
    pub nanosecond: u32,
}

impl Civil {
    /// The calendar's words for `time`.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, part(since.as_secs() % 86_400));
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        Self { year, month, day, hour, minute, second, nanosecond: since.subsec_nanos() }
    }

    /// Appends `2026-11-21`, or with another text between the parts.
    pub fn push_date(&self, text: &mut String, between: &str) {
        push_two(text, self.year / 100);
        push_two(text, self.year);
        for part in [self.month, self.day] {
            text.push_str(between);
            push_two(text, part);
        }
    }

    /// Appends `08:30:00`, or with another text between the parts.
    pub fn push_time(&self, text: &mut String, between: &str) {
        push_two(text, self.hour);
        for part in [self.minute, self.second] {
            text.push_str(between);
            push_two(text, part);
        }
    }

    /// Appends `2026-11-21T08:30:00.123456Z` (RFC 3339).
    pub fn push_rfc3339(&self, text: &mut String) {
        self.push_date(text, "-");
        text.push('T');
        self.push_time(text, ":");
        text.push('.');
        let micros = self.nanosecond / 1_000;
        for part in [micros / 10_000, micros / 100, micros] {
            push_two(text, part);
        }
        text.push('Z');
    }
}

/// Appends the last two digits of `number`. For a time in each request's line: `format!` takes many times as long.
fn push_two(text: &mut String, number: u32) {
    for digit in [number / 10 % 10, number % 10] {
        text.push(char::from_digit(digit, 10).unwrap_or('0'));
    }
}

/// Year, month and day of a number of days after 1970-01-01, in years that begin with March: then the day that comes
/// every four years is the last (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn date(days: u64) -> (u32, u32, u32) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (part(year), part(month), part(day))
}

/// A year too far away for anybody is the last one.
fn part(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_date_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007089Z"),
            (951_782_399, "2000-02-28T23:59:59.007089Z"),
            (951_782_400, "2000-02-29T00:00:00.007089Z"),
            (1_763_685_000, "2025-11-21T00:30:00.007089Z"),
            (4_107_542_399, "2100-02-28T23:59:59.007089Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007089Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(7_089_999);
            let mut written = String::new();
            Civil::of(time).push_rfc3339(&mut written);
            assert_eq!(written, text);
        }
    }
}
