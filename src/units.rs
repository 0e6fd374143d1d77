//! Durations and sizes as people write them in the config: `"250ms"`, `"5s"`, `"64KiB"`.
//!
//! Refuses bare numbers: a unit is part of the value, never of the key's name. Imports nothing of ours.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes, written as `"512B"`, `"64KiB"`, `"10MiB"` or `"1GiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Why a duration or a size could not be read; its text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// The text has no digits in front.
    #[error("\"{0}\" does not start with a number; write a number and a unit, such as {1}")]
    NoNumber(String, &'static str),
    /// The number has no unit behind it.
    #[error("\"{0}\" has no unit; write {1}")]
    NoUnit(String, &'static str),
    /// The unit is not one of ours.
    #[error("\"{unit}\" is not a unit; use one of {known}")]
    UnknownUnit {
        /// What stood behind the number.
        unit: String,
        /// The units that are known.
        known: &'static str,
    },
    /// The value does not fit.
    #[error("\"{0}\" is too large")]
    TooLarge(String),
}

const SIZE_EXAMPLE: &str = "\"64KiB\" or \"10MiB\"";
const DURATION_EXAMPLE: &str = "\"250ms\" or \"5s\"";

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text, SIZE_EXAMPLE)?;
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(UnitError::UnknownUnit { unit: unit.to_owned(), known: "B, KiB, MiB, GiB" }),
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| UnitError::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        for (factor, unit) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
            if bytes >= factor && bytes.is_multiple_of(factor) {
                return write!(f, "{}{unit}", bytes / factor);
            }
        }
        write!(f, "{bytes}B")
    }
}

/// Reads `"250ms"`, `"5s"`, `"10m"`, `"1h"` or `"1d"`.
///
/// # Errors
/// [`UnitError`] when the number or the unit is missing, unknown or too large.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text, DURATION_EXAMPLE)?;
    let seconds_per_unit = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(UnitError::UnknownUnit { unit: unit.to_owned(), known: "ms, s, m, h, d" }),
    };
    number.checked_mul(seconds_per_unit).map(Duration::from_secs).ok_or_else(|| UnitError::TooLarge(text.to_owned()))
}

/// Writes a duration the way [`parse_duration`] reads it, in the largest unit that fits exactly.
pub fn format_duration(duration: Duration) -> String {
    if duration.subsec_millis() != 0 {
        return format!("{}ms", duration.as_millis());
    }
    let seconds = duration.as_secs();
    for (factor, unit) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if seconds >= factor && seconds.is_multiple_of(factor) {
            return format!("{}{unit}", seconds / factor);
        }
    }
    format!("{seconds}s")
}

fn split<'a>(text: &'a str, example: &'static str) -> Result<(u64, &'a str), UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::NoNumber(text.to_owned(), example));
    }
    if unit.is_empty() {
        return Err(UnitError::NoUnit(text.to_owned(), example));
    }
    match number.parse() {
        Ok(number) => Ok((number, unit.trim_start())),
        Err(_) => Err(UnitError::TooLarge(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_survive_being_written_and_read_again() {
        for text in ["250ms", "1500ms", "5s", "90s", "10m", "1h", "36h", "2d"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&format_duration(duration)).unwrap(), duration, "{text}");
        }
        for text in ["1B", "64KiB", "10MiB", "1GiB", "1500B"] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.to_string(), text);
        }
    }

    #[test]
    fn a_missing_or_foreign_unit_is_named() {
        assert!(matches!(parse_duration("5"), Err(UnitError::NoUnit(..))));
        assert!(matches!(parse_duration("5 sec"), Err(UnitError::UnknownUnit { .. })));
        assert!(matches!(parse_duration("-5s"), Err(UnitError::NoNumber(..))));
        assert!(matches!("10MB".parse::<ByteSize>(), Err(UnitError::UnknownUnit { .. })));
        assert!(matches!("99999999999999999999B".parse::<ByteSize>(), Err(UnitError::TooLarge(_))));
        assert!(matches!("99999999999GiB".parse::<ByteSize>(), Err(UnitError::TooLarge(_))));
    }
}
