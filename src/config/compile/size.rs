//! Sizes and numbers that have a least and a most.

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
        let problem = context.problems.error(size.span, format!("`{key}` must be from {least} to {most}"));
        problem.help("leave it out to have the default");
    }
    usize::try_from(size.value.0).unwrap_or(usize::MAX)
}

/// A number in `bounds`.
pub(super) fn number(key: &str, number: &At<usize>, bounds: RangeInclusive<usize>, context: &mut Context<'_>) -> usize {
    if !bounds.contains(&number.value) {
        let (least, most) = bounds.into_inner();
        let problem = context.problems.error(number.span, format!("`{key}` must be from {least} to {most}"));
        problem.help("leave it out to have the default");
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
        let problem = context.problems.error(time.span, format!("`{key}` must be from {least} to {most}"));
        problem.help("leave it out to have the default");
    }
    time.value
}
