//! Log lines on standard error.

use std::str::FromStr;

use tracing_subscriber::filter::Targets;

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

impl FromStr for Level {
    type Err = tracing_subscriber::filter::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
