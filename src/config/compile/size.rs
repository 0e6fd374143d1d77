//! Sizes and numbers that have a least and a most.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Context;
use crate::config::read::At;
use crate::units::{ByteSize, format_duration};

const KIB: u64 = 1024;

/// A size in bytes, from so many KiB to so many.
pub(super) fn within(key: &str, size: &At<ByteSize>, bounds: RangeInclusive<u64>, context: &mut Context<'_>) -> usize {
    let (least, most) = (ByteSize(bounds.start() * KIB), ByteSize(bounds.end() * KIB));
    if !(least..=most).contains(&size.value) {
        refuse(key, size, least, most, context);
    }
    usize::try_from(size.value.0).unwrap_or(usize::MAX)
}

/// A number in `bounds`.
pub(super) fn number(key: &str, number: &At<usize>, bounds: RangeInclusive<usize>, context: &mut Context<'_>) -> usize {
    if !bounds.contains(&number.value) {
        let (least, most) = bounds.into_inner();
        refuse(key, number, least, most, context);
    }
    number.value
}

/// A time in `bounds`.
pub(super) fn time(
    key: &str,
    time: &At<Duration>,
    bounds: RangeInclusive<Duration>,
    context: &mut Context<'_>,
) -> Duration {
    if !bounds.contains(&time.value) {
        let (least, most) = (format_duration(*bounds.start()), format_duration(*bounds.end()));
        refuse(key, time, least, most, context);
    }
    time.value
}

fn refuse<T>(key: &str, value: &At<T>, least: impl Display, most: impl Display, context: &mut Context<'_>) {
    let problem = context.problems.error(value.span, format!("`{key}` must be from {least} to {most}"));
    problem.help("leave it out to have the default");
}
