//! The time a double goes by, and the three ways AWS writes it down.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

type Source = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The time a double goes by: the system's, until a test puts another in its place.
///
/// Clones share their source, so that setting one sets all.
#[derive(Clone)]
pub struct Clock(Arc<Mutex<Source>>);

/// A point in time as a calendar of UTC shows it, in whole seconds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Date {
    year: i64,
    month: u32,
    day: u32,
    second_of_day: u64,
    /// 0 is Sunday.
    weekday: usize,
}

impl Clock {
    /// The system's time.
    pub fn system() -> Self {
        Self::new(SystemTime::now)
    }

    /// The time that `source` tells.
    pub fn new(source: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(source))))
    }

    /// Goes by `source` from now on, in every clone.
    pub fn set(&self, source: impl Fn() -> SystemTime + Send + Sync + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(source);
    }

    /// The time now.
    pub fn now(&self) -> SystemTime {
        let source = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        source()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Clock").field(&rfc3339(self.now())).finish()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// `20150830T123600Z`, as in `x-amz-date`.
pub(crate) fn iso_basic(time: SystemTime) -> String {
    let Date { year, month, day, second_of_day, .. } = Date::of(time);
    let (hour, minute, second) = split(second_of_day);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// `2015-08-30T12:36:00Z`, as in answers of STS and of credential endpoints.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let Date { year, month, day, second_of_day, .. } = Date::of(time);
    let (hour, minute, second) = split(second_of_day);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `Sun, 30 Aug 2015 12:36:00 GMT`, as in `Date` (RFC 9110 5.6.7).
pub(crate) fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Date { year, month, day, second_of_day, weekday } = Date::of(time);
    let (hour, minute, second) = split(second_of_day);
    let (name, month) = (DAYS[weekday], MONTHS[month as usize - 1]);
    format!("{name}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// `Sun Aug 30 12:36:00 UTC 2015`, as in Cognito's SRP; the day is not padded.
pub(crate) fn srp_time(time: SystemTime) -> String {
    let date = http_date(time);
    let [name, day, month, year, clock, _] =
        date.split(' ').collect::<Vec<_>>().try_into().expect("an HTTP date has six words");
    format!("{} {month} {} {clock} UTC {year}", name.trim_end_matches(','), day.trim_start_matches('0'))
}

/// Reads `20150830T123600Z`; nothing else.
pub(crate) fn parse_iso_basic(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| {
        bytes[from..to]
            .iter()
            .try_fold(0_u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let seconds = number(9, 11)? * 3600 + number(11, 13)? * 60 + number(13, 15)?;
    let days =
        u64::try_from(days_from_civil(i64::try_from(year).ok()?, i64::try_from(month).ok()?, i64::try_from(day).ok()?))
            .ok()?;
    let time = UNIX_EPOCH + Duration::from_secs(days * 86_400 + seconds);
    // The 31st of February, or an hour 25, would come back as another date.
    (iso_basic(time) == text).then_some(time)
}

fn split(second_of_day: u64) -> (u64, u64, u64) {
    (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60)
}

/// Days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl Date {
    fn of(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let days = i64::try_from(seconds / 86_400).expect("a u64 of seconds has fewer days than an i64 can count");
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let small = |number: i64| u32::try_from(number).expect("days and months are small and positive");
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: small(month),
            day: small(day_of_year - (153 * month_from_march + 2) / 5 + 1),
            second_of_day: seconds % 86_400,
            // 1970-01-01 was a Thursday.
            weekday: small((days + 4) % 7) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_all_three_ways() {
        let time = UNIX_EPOCH + Duration::from_mins(24_015_636);
        assert_eq!(iso_basic(time), "20150830T123600Z");
        assert_eq!(rfc3339(time), "2015-08-30T12:36:00Z");
        assert_eq!(http_date(time), "Sun, 30 Aug 2015 12:36:00 GMT");
        assert_eq!(srp_time(time), "Sun Aug 30 12:36:00 UTC 2015");
        assert_eq!(srp_time(UNIX_EPOCH), "Thu Jan 1 00:00:00 UTC 1970");
    }

    #[test]
    fn a_basic_date_reads_back_and_a_leap_day_is_a_day() {
        for text in ["20150830T123600Z", "20240229T235959Z", "20000229T000000Z", "19700101T000000Z"] {
            assert_eq!(iso_basic(parse_iso_basic(text).unwrap()), text);
        }
        for text in ["20230229T000000Z", "20150830T123600", "2015-08-30T12:36", "20150830T250000Z", "20151330T120000Z"]
        {
            assert_eq!(parse_iso_basic(text), None, "{text}");
        }
    }

    #[test]
    fn setting_one_clock_sets_its_clones() {
        let clock = Clock::system();
        let clone = clock.clone();
        clock.set(|| UNIX_EPOCH);
        assert_eq!(clone.now(), UNIX_EPOCH);
    }
}
