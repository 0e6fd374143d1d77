//! Where the config comes from, the environment, and the signals that stop a run.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::config::{Environment, Source};
use crate::telemetry::log::Look;

const CONFIG_VARIABLE: &str = "COUNTERSIGN_CONFIG";
const TEXT_VARIABLE: &str = "COUNTERSIGN_CONFIG_TOML";
const PLACES: [&str; 2] = ["countersign.toml", "/etc/countersign/config.toml"];

/// A config that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("no config: give --config FILE, set {CONFIG_VARIABLE} or {TEXT_VARIABLE}, or write {} or {}", PLACES[0], PLACES[1])]
    Nowhere,
    #[error("reading the config file {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The process's environment, read nowhere else. Variables that are not UTF-8 are left out: no config can name them.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub(super) fn environment() -> Environment {
    Environment::new(
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    )
}

/// How log lines are set: for a terminal where there is one that takes colors and nobody asked for none (no-color.org).
pub(super) fn look() -> Look {
    let environment = environment();
    let is_set = |name| environment.get(name).is_some_and(|value| !value.is_empty());
    let takes_colors = environment.get("TERM").is_some_and(|term| term != "dumb");
    if io::stderr().is_terminal() && takes_colors && !is_set("NO_COLOR") { Look::Terminal } else { Look::Plain }
}

/// The config: `--config`, else the text in the environment, else the file that it names, else the usual places.
pub(super) fn find(flag: Option<&Path>, environment: &Environment) -> Result<Source, SourceError> {
    if let Some(path) = flag {
        return read(path);
    }
    if let Some(text) = environment.get(TEXT_VARIABLE) {
        return Ok(Source { name: format!("${TEXT_VARIABLE}"), text: text.to_owned(), folder: PathBuf::from(".") });
    }
    if let Some(path) = environment.get(CONFIG_VARIABLE) {
        return read(Path::new(path));
    }
    let place = PLACES.iter().map(Path::new).find(|path| path.exists());
    place.map_or(Err(SourceError::Nowhere), read)
}

fn read(path: &Path) -> Result<Source, SourceError> {
    Source::read(path).map_err(|source| SourceError::Unreadable { path: path.to_owned(), source })
}

/// The file that [`find`] reads, if it is one: what a running proxy follows.
pub(super) fn file(flag: Option<&Path>, environment: &Environment) -> Option<PathBuf> {
    if flag.is_none() && environment.get(TEXT_VARIABLE).is_some() {
        return None;
    }
    let named = flag.or_else(|| environment.get(CONFIG_VARIABLE).map(Path::new));
    named.or_else(|| PLACES.iter().map(Path::new).find(|path| path.exists())).map(Path::to_owned)
}

/// Wakes who waits at every SIGHUP. From here on that signal does not end the process.
///
/// # Errors
/// When the system takes no handler.
pub(super) fn hangups() -> Result<Arc<Notify>, String> {
    let mut hangup = register(SignalKind::hangup())?;
    let asked = Arc::<Notify>::default();
    let wake = Arc::clone(&asked);
    let watch = async move {
        while hangup.recv().await.is_some() {
            wake.notify_one();
        }
    };
    #[expect(clippy::disallowed_methods, reason = "signals are waited for until the very end")]
    drop(tokio::spawn(watch));
    Ok(asked)
}

fn register(kind: SignalKind) -> Result<Signal, String> {
    signal(kind).map_err(|error| format!("registering for signals: {error}"))
}

/// Ready at the first SIGTERM or SIGINT, and at the second.
///
/// # Errors
/// When the system takes no handler.
pub(super) fn signals() -> Result<(impl Future<Output = ()>, impl Future<Output = ()>), String> {
    let (mut terminate, mut interrupt) = (register(SignalKind::terminate())?, register(SignalKind::interrupt())?);
    let (first, second) = (tokio_util::sync::CancellationToken::new(), tokio_util::sync::CancellationToken::new());
    let (stop, hurry) = (first.clone(), second.clone());
    let watch = async move {
        for token in [first, second] {
            tokio::select! {
                _signal = terminate.recv() => {}
                _signal = interrupt.recv() => {}
            }
            token.cancel();
        }
    };
    #[expect(clippy::disallowed_methods, reason = "outlives the tasks that drain ends")]
    drop(tokio::spawn(watch));
    Ok((async move { stop.cancelled().await }, async move { hurry.cancelled().await }))
}
