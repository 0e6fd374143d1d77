//! What may be said of a credential: how it fares, whose it is, why it is not there; never the credential itself.
//!
//! Imports `diagnosis`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::FetchError;
use super::refreshing::LATEST_POINT;
use crate::diagnosis::{Diagnosis, Evidence};

/// What may be shown of a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Whose it is: a client id, a user, the ARN of a session.
    pub principal: Option<String>,
    /// The scopes it was given, separated by spaces; `None` where it has none or does not say.
    pub scopes: Option<String>,
}

/// How a credential fares, for readiness, metrics and `check --online`.
#[derive(Clone, Debug)]
pub struct Status {
    /// What it is called in logs and metrics.
    pub name: Arc<str>,
    /// Its kind and whose it is, without secrets.
    pub kind: String,
    /// What the one held says of itself.
    pub about: About,
    /// The life that the one held had when it was fetched.
    pub life: Option<Duration>,
    /// Whether a request would get one now.
    pub usable: bool,
    /// Whether a first try has ended, well or not.
    pub tried: bool,
    /// The end of the one held.
    pub expires: Option<SystemTime>,
    /// How long ago the one held was fetched.
    pub age: Option<Duration>,
    /// Until the next try, while the last one failed.
    pub retry_in: Option<Duration>,
    /// Why the last try failed, until one succeeds.
    pub failure: Option<Arc<FetchError>>,
    /// Successful fetches.
    pub fetched: u64,
    /// Failed ones.
    pub failed: u64,
}

impl Status {
    /// Why the last try failed, in named causes.
    pub fn diagnosis(&self) -> Option<Diagnosis> {
        self.failure.as_ref().map(|failure| failure.diagnose())
    }

    /// `credential "orders": valid for 3541 s`, in one line.
    pub fn summary(&self, now: SystemTime) -> String {
        let left = self.expires.map(|end| end.duration_since(now).unwrap_or_default().as_secs());
        let state = match (self.usable, left) {
            (true, Some(0)) => "expired, used on".to_owned(),
            (true, Some(seconds)) => format!("valid for {seconds} s"),
            (true, None) => "valid, without an end".to_owned(),
            (false, _) if self.tried => "none".to_owned(),
            (false, _) => "first try under way".to_owned(),
        };
        format!("credential \"{}\": {state}", self.name)
    }

    /// All that may be said of it, in lines of their own: kind, principal, scopes, and the outage of its source that a
    /// request would not notice. `owner` is whose it is, where that was found out.
    pub fn report(&self, now: SystemTime, owner: Option<&str>) -> String {
        let mut lines = vec![self.describe(now), self.kind.clone()];
        lines.extend(owner.map(|owner| format!("principal: {owner}")));
        lines.extend(self.about.scopes.as_ref().map(|scopes| format!("scopes: {scopes}")));
        lines.extend(self.diagnosis().map(|diagnosis| diagnosis.hint(Evidence::Withheld)));
        let lives = self.expires.is_none_or(|end| end > now);
        if let (true, true, Some(life)) = (self.usable, lives, self.life) {
            let survived = life.mul_f64(1.0 - LATEST_POINT).as_secs();
            let survived =
                if survived < 120 { format!("{survived} s") } else { format!("{} min", (survived + 30) / 60) };
            lines.push(format!("rides out an outage of {survived}, whenever it begins"));
        } else if self.usable && lives {
            lines.push("rides out any outage: it has no end".to_owned());
        }
        lines.join("\n  ")
    }

    /// [`Status::summary`], and what is wrong with it: endpoints, roles, error codes; never a secret.
    pub fn describe(&self, now: SystemTime) -> String {
        let summary = self.summary(now);
        match &self.failure {
            None => summary,
            Some(failure) => format!("{summary}; last try: {}", Chain(&**failure)),
        }
    }
}

/// An error and all that lies beneath it, in one line.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut beneath = self.0.source();
        while let Some(error) = beneath {
            let text = error.to_string();
            // Some libraries print their source themselves; saying it once is enough.
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            beneath = error.source();
        }
        Ok(())
    }
}
