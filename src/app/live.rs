//! The config that is served, and how another takes its place.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::StartError;
use super::listeners::{Listeners, Opened};
use super::parts::{self, AtStart, Ground, Parts};
use crate::admin::standing::Standing;
use crate::auth::refreshing::Chain;
use crate::auth::{self, Roster};
use crate::config::Compiled;
use crate::proxy::Proxy;
use crate::reload::{Attempt, Occasion, Reloader};
use crate::server::{self, Handed};

/// How long new credentials are waited for while the old config is served: as long as a request would wait for one. Whose
/// source is down for longer fails by itself, as it does at a start.
const FIRST_TRIES: Duration = Duration::from_secs(5);

/// What the program is about to do, for whoever started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It answers, and its credentials were tried; or a new config is in place, or refused.
    Ready,
    /// It takes up a new config.
    Reloading,
    /// It ends.
    Stopping,
}

/// Whom to tell of a [`Phase`].
#[derive(Clone)]
pub(super) struct Teller(Arc<dyn Fn(Phase) + Send + Sync>);

/// All that a config decides.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) proxy: Arc<Proxy>,
    pub(super) parts: Parts,
    pub(super) roster: Roster,
    pub(super) ground: Ground,
    pub(super) listeners: Listeners,
    pub(super) settings: server::Settings,
    pub(super) at_start: AtStart,
    pub(super) standing: Standing,
    pub(super) teller: Teller,
}

impl Live {
    /// Serves the config of the start.
    pub(super) fn begin(&mut self, opened: Opened) {
        self.listeners.apply(opened, &self.settings, self.parts.tls());
    }

    /// Takes up what `reloader` finds, for ever.
    ///
    /// # Cancellation
    /// Safe: a config is in place as a whole or not at all.
    pub(super) async fn follow(&mut self, reloader: Option<Reloader>) {
        let Some(mut reloader) = reloader else { return std::future::pending().await };
        loop {
            let Attempt { occasion, hash, config } = reloader.next().await;
            self.teller.tell(Phase::Reloading);
            let hash = hash.map(|hash| hash.to_string());
            let outcome = match config {
                Ok(compiled) => Box::pin(self.adopt(compiled)).await.map_err(|error| Chain(&error).to_string()),
                Err(refusal) => Err(Chain(&refusal).to_string()),
            };
            match outcome {
                Ok(()) => reloader.accept(),
                // Said once, and not every time that it is tried again.
                Err(reason) if !reloader.refuse(&reason) && occasion == Occasion::Again => {}
                Err(reason) => {
                    let generation = self.standing.refused(reason.clone());
                    tracing::error!(reason, hash, generation, "the config was not taken up: the one before stays");
                }
            }
            self.teller.tell(Phase::Ready);
        }
    }

    /// Has `compiled` take the place of what is served, if nothing is wrong with it.
    async fn adopt(&mut self, mut compiled: Compiled) -> Result<(), StartError> {
        let postponed = self.at_start.postponed(&compiled);
        parts::fit(&self.ground.machine, &mut compiled);
        for warning in &compiled.warnings {
            tracing::warn!(warning = %warning, "config");
        }
        let parts = Parts::try_new(&compiled, Some(&self.parts), &self.ground)?;
        let opened = Opened::open(&compiled, Some(&self.listeners), &mut Handed::default()).await?;
        if timeout(FIRST_TRIES, auth::tried(&parts.credentials)).await.is_err() {
            tracing::warn!(limit = ?FIRST_TRIES, "a new credential is not there yet; its routes wait for it");
        }
        // From here on nothing fails and nobody waits.
        self.proxy.replace(Arc::clone(&parts.snapshot));
        self.listeners.apply(opened, &compiled.server, parts.tls());
        self.roster.replace(parts.credentials.clone(), parts.cache.clone());
        if !postponed.is_empty() {
            tracing::warn!(keys = postponed.join(", "), "changed, and read only at a start: restart to have them");
        }
        let (hash, routes) = (compiled.hash.to_string(), compiled.routes.len());
        let generation = self.standing.applied(hash.clone(), self.ground.clock.wall(), postponed);
        tracing::info!(generation, hash, routes, "a new config is served");
        (self.settings, self.parts) = (compiled.server, parts);
        Ok(())
    }
}

impl Teller {
    pub(super) fn new(tell: impl Fn(Phase) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(super) fn tell(&self, phase: Phase) {
        (self.0)(phase);
    }
}

impl Default for Teller {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").finish_non_exhaustive()
    }
}
