//! Small charts, as SVG paths: attributes alone, since the page's policy allows no inline style.
//!
//! Sixty steps, oldest on the left. Imports nothing of ours but its neighbors.

use std::fmt::Write as _;

use super::super::report::Series;
use super::put;
use crate::telemetry::pace::STEPS;

/// In units of the view box; the page's style stretches it.
const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 28.0;

/// Requests of each step, what went wrong in its color at the foot.
pub(super) fn bars(series: &Series, label: &str) -> String {
    let most = series.requests.iter().copied().max().unwrap_or_default().max(1);
    let (mut fine, mut refused, mut failed) = (String::new(), String::new(), String::new());
    let steps = series.requests.iter().zip(&series.refused).zip(&series.failed).enumerate();
    for (place, ((all, bad), worst)) in steps {
        let mut foot = HEIGHT;
        // From the foot up; a single failure among thousands must still be seen.
        for (path, count) in [(&mut failed, *worst), (&mut refused, *bad), (&mut fine, all - bad - worst)] {
            if count > 0 {
                let height = (part(count, most) * HEIGHT).max(1.5).min(foot);
                put!(path, "M{:.1} {foot:.1}h1.6v-{height:.1}h-1.6z", x(place));
                foot -= height;
            }
        }
    }
    let mut paths = String::new();
    for (class, path) in [("fine", fine), ("refused", refused), ("failed", failed)] {
        put!(paths, "<path class=\"{class}\" d=\"{path}\"/>");
    }
    chart(&paths, label)
}

/// The p95 of each step; steps without requests leave a gap.
pub(super) fn line(series: &Series, label: &str) -> String {
    let most = series.p95_ms.iter().flatten().copied().fold(0.001, f64::max);
    let (mut path, mut dots) = (String::new(), String::new());
    let mut before = None;
    for (place, slow) in series.p95_ms.iter().enumerate() {
        if let Some(slow) = slow {
            let (x, y) = (x(place) + 0.8, HEIGHT - 2.0 - slow / most * (HEIGHT - 4.0));
            put!(path, "{}{x:.1} {y:.1}", if before.is_some() { 'L' } else { 'M' });
            // A step that stands alone is no line.
            put!(dots, "M{:.1} {y:.1}h.8", x - 0.4);
        }
        before = *slow;
    }
    chart(&format!("<path class=\"line\" d=\"{path}\"/><path class=\"line\" d=\"{dots}\"/>"), label)
}

/// What is left of something, as the filled part of a bar.
pub(super) fn gauge(filled: f64, label: &str) -> String {
    let width = filled.clamp(0.0, 1.0) * 100.0;
    format!(
        "<svg class=\"gauge\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">\
         <rect class=\"rest\" width=\"100\" height=\"4\"/><rect class=\"left\" width=\"{width:.1}\" height=\"4\"/></svg>"
    )
}

/// Parts of a whole, side by side, each in the color of its name.
pub(super) fn parts(parts: &[(&str, f64)]) -> String {
    let all: f64 = parts.iter().map(|(_, part)| part).sum();
    let (mut rects, mut x) = (String::new(), 0.0);
    for (name, part) in parts {
        let width = part / all.max(0.001) * 100.0;
        put!(rects, "<rect class=\"{name}\" x=\"{x:.1}\" width=\"{width:.1}\" height=\"6\"/>");
        x += width;
    }
    format!(
        "<svg class=\"phases\" viewBox=\"0 0 100 6\" preserveAspectRatio=\"none\" aria-hidden=\"true\">{rects}</svg>"
    )
}

fn chart(paths: &str, label: &str) -> String {
    format!(
        "<svg class=\"spark\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">\
         <path class=\"base\" d=\"M0 {HEIGHT}h{WIDTH}\"/>{paths}</svg>"
    )
}

fn x(place: usize) -> f64 {
    let step = WIDTH / u32::try_from(STEPS).map_or(1.0, f64::from);
    u32::try_from(place).map_or(0.0, f64::from) * step
}

fn part(count: u64, most: u64) -> f64 {
    let real = |count: u64| u32::try_from(count).map_or(f64::from(u32::MAX), f64::from);
    real(count) / real(most)
}
