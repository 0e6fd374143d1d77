//! The log's level, changeable while the program runs.
//!
//! Costs a log line nothing: a change has every place that logs asked anew whether it is enabled. Caps hold whatever is
//! asked for ([`super::log`]). Imports nothing of ours but its neighbors.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::Registry;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::reload::{self, Handle};

use super::log::{Level, capped};

/// The words for a level.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The part of `text` that names no level. The parser takes a lone word that is none for a target, and would log all of
/// that and nothing else.
pub fn misspelt(text: &str) -> Option<&str> {
    let is_level = |part: &str| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        LEVELS.contains(&level.trim())
    };
    text.split(',').find(|part| !is_level(part))
}

/// Sets the level of one log; its clones are the same one.
#[derive(Clone)]
pub struct Dial {
    configured: Level,
    set: Arc<Mutex<Level>>,
    handle: Handle<Targets, Registry>,
}

/// A level that cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// A part of it is no level.
    #[error(
        "\"{0}\" is no level: write off, error, warn, info, debug or trace, or also a target's, as in info,hyper=warn"
    )]
    Unknown(String),
    /// It cannot be read for another reason.
    #[error("a level is written as info or info,hyper=warn")]
    Unreadable(#[source] ParseError),
    /// There is no log any more.
    #[error("the log is gone")]
    NoLog(#[source] reload::Error),
}

impl Dial {
    /// A dial that stands at `level`, and the filter that it moves.
    pub(super) fn new(level: &Level) -> (Self, reload::Layer<Targets, Registry>) {
        let (filter, handle) = reload::Layer::new(capped(&level.0));
        (Self { configured: level.clone(), set: Arc::new(Mutex::new(level.clone())), handle }, filter)
    }

    /// The level now.
    pub fn level(&self) -> String {
        self.set.lock().unwrap_or_else(PoisonError::into_inner).0.to_string()
    }

    /// Logs from `text` on; `None` is what the config says. Returns the level before.
    ///
    /// # Errors
    /// [`LevelError`]: the level stays.
    pub fn turn(&self, text: Option<&str>) -> Result<String, LevelError> {
        let level: Level = match text {
            Some(text) if let Some(part) = misspelt(text) => return Err(LevelError::Unknown(part.to_owned())),
            Some(text) => text.parse().map_err(LevelError::Unreadable)?,
            None => self.configured.clone(),
        };
        let before = self.level();
        self.handle.reload(capped(&level.0)).map_err(LevelError::NoLog)?;
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = level;
        Ok(before)
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dial").field(&self.level()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tracing::subscriber::with_default;
    use tracing_subscriber::fmt::MakeWriter;

    use super::super::log::{Format, Look, Settings};
    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for &Kept {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = &'a Self;
        fn make_writer(&'a self) -> Self::Writer {
            self
        }
    }

    #[test]
    fn the_level_is_turned_up_and_back_and_caps_hold() {
        let kept = Kept::default();
        let settings = Settings { format: Format::Json, level: "warn".parse().unwrap(), access: true };
        let (subscriber, dial) = settings.adjustable(kept.clone(), Look::Plain);
        with_default(subscriber, || {
            let say = |word: &str| {
                tracing::debug!(word, "ours");
                tracing::debug!(target: "aws_sigv4::http_request", word, "theirs");
                tracing::warn!(word, "warned");
            };
            say("one");
            assert_eq!(dial.turn(Some("trace")).unwrap(), "warn");
            say("two");
            for text in ["", "degub", "info,hyper", "info,=", "loud=,info", "hyper=loud"] {
                assert!(matches!(dial.turn(Some(text)), Err(LevelError::Unknown(_))), "{text}");
            }
            assert_eq!(dial.level(), "trace");
            assert_eq!(dial.turn(None).unwrap(), "trace");
            say("three");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let said: Vec<(String, String)> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| (line["word"].as_str().unwrap().to_owned(), line["message"].as_str().unwrap().to_owned()))
            .collect();
        let expected = [("one", "warned"), ("two", "ours"), ("two", "warned"), ("three", "warned")];
        assert_eq!(said, expected.map(|(word, message)| (word.to_owned(), message.to_owned())));
    }
}
