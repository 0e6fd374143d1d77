//! Log lines on standard error, for people or for machines.
//!
//! Filters by target with a plain list: patterns would cost the binary 600 KB. Imports nothing of ours but its neighbors.

use std::str::FromStr;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use super::access::{Requests, Style};
use super::level::Dial;
use super::terminal::Terminal;

/// Targets that are never logged below this, whatever the config says: at trace level they print what they sign or
/// parse, credentials included (docs/aws.md B1).
const CAPPED: [(&str, LevelFilter); 8] = [
    ("aws_sigv4", LevelFilter::INFO),
    ("aws_runtime", LevelFilter::INFO),
    ("aws_smithy_runtime", LevelFilter::INFO),
    ("aws_smithy_runtime_api", LevelFilter::INFO),
    ("aws_sdk_sts", LevelFilter::INFO),
    ("aws_config", LevelFilter::INFO),
    ("h2", LevelFilter::INFO),
    ("hyper_util", LevelFilter::DEBUG),
];

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Lines for people or for machines.
    pub format: Format,
    /// Least level, per target: `info`, or `info,hyper=warn`.
    pub level: Level,
    /// Whether each request leaves a line.
    pub access: bool,
}

/// Lines for people or for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One line of words and `key=value`.
    Text,
    /// One JSON object a line.
    Json,
}

/// Least level, per target.
#[derive(Clone, Debug, PartialEq)]
pub struct Level(pub(crate) Targets);

impl Level {
    /// Warnings and errors of everybody.
    pub fn warnings() -> Self {
        Self(Targets::new().with_default(LevelFilter::WARN))
    }
}

impl FromStr for Level {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// How text for people is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Lines of words and `key=value`, for files.
    Plain,
    /// Aligned and colored, for a terminal.
    Terminal,
}

impl Settings {
    /// A subscriber that writes to `writer`, and what changes its level.
    pub fn adjustable<W>(&self, writer: W, look: Look) -> (impl tracing::Subscriber + Send + Sync + use<W>, Dial)
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        let (dial, filter) = Dial::new(&self.level);
        let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
        let lines = match (self.format, look) {
            (Format::Json, _) => {
                let lines = lines.json().flatten_event(true);
                lines.map_event_format(|others| Requests::new(Style::Json, others)).with_filter(filter).boxed()
            }
            (Format::Text, Look::Plain) => {
                lines.map_event_format(|others| Requests::new(Style::Text, others)).with_filter(filter).boxed()
            }
            (Format::Text, Look::Terminal) => lines.event_format(Terminal).with_filter(filter).boxed(),
        };
        (Registry::default().with(lines), dial)
    }

    /// A subscriber that writes to `writer`.
    pub fn subscriber<W>(&self, writer: W) -> impl tracing::Subscriber + Send + Sync + use<W>
    where
        W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    {
        self.adjustable(writer, Look::Plain).0
    }
}

pub(super) fn capped(targets: &Targets) -> Targets {
    let default = targets.default_level().unwrap_or(LevelFilter::OFF);
    // A directive holds for all targets that begin with it, so one for a part of a capped target is capped as well.
    let cap_of = |target: &str| CAPPED.into_iter().find(|(name, _)| target.starts_with(name)).map(|(_, cap)| cap);
    let asked: Vec<(String, LevelFilter)> = targets
        .iter()
        .map(|(target, level)| (target.to_owned(), cap_of(target).map_or(level, |cap| level.min(cap))))
        .collect();
    let caps = CAPPED.into_iter().map(|(target, cap)| (target.to_owned(), default.min(cap)));
    // What was asked for comes last: it may be less than the cap.
    Targets::new().with_default(default).with_targets(caps).with_targets(asked)
}

#[cfg(test)]
mod tests {
    use tracing::Level as At;

    use super::*;

    #[test]
    fn what_prints_secrets_stays_silent_at_trace() {
        let targets = capped(&"trace".parse::<Level>().unwrap().0);
        assert!(targets.would_enable("countersign::proxy", &At::TRACE));
        assert!(targets.would_enable("aws_sigv4::http_request", &At::INFO));
        assert!(!targets.would_enable("aws_sigv4::http_request", &At::TRACE));
        assert!(!targets.would_enable("aws_runtime", &At::DEBUG));
        let quiet = capped(&"warn,aws_config=trace".parse::<Level>().unwrap().0);
        assert!(!quiet.would_enable("aws_config", &At::DEBUG));
        assert!(!quiet.would_enable("h2", &At::INFO));
        let deeper = capped(&"info,aws_smithy_runtime::client=trace,h2=error".parse::<Level>().unwrap().0);
        assert!(!deeper.would_enable("aws_smithy_runtime::client::http", &At::DEBUG));
        assert!(!deeper.would_enable("h2", &At::INFO) && deeper.would_enable("h2", &At::ERROR));
    }
}
