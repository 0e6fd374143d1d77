//! The signing identities of the pretend account.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::encoding::random_hex;

/// The access keys that exist; clones share them. STS and the container endpoint add to it, the gateway looks up in it.
#[derive(Debug, Clone, Default)]
pub struct AccessKeys(Arc<Mutex<HashMap<String, AccessKey>>>);

/// One signing identity.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// The access key id: `AKIA…` for a user's, `ASIA…` for a session's.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// The session token requests must carry; with `None` they must carry none.
    pub session_token: Option<String>,
    /// The ARN it acts as.
    pub principal: String,
    /// The end of its validity; `None` for a key that stays.
    pub expires: Option<SystemTime>,
}

impl AccessKeys {
    /// No keys yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key, in place of one with the same id.
    pub fn add(&self, key: AccessKey) {
        self.lock().insert(key.id.clone(), key);
    }

    /// The key with this id.
    pub fn get(&self, id: &str) -> Option<AccessKey> {
        self.lock().get(id).cloned()
    }

    /// Deletes a key: what it signs is refused from now on.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Makes and adds session credentials for a principal.
    pub(crate) fn issue(&self, principal: String, expires: SystemTime) -> AccessKey {
        let key = AccessKey {
            id: format!("ASIA{}", random_hex(8).to_uppercase()),
            secret: random_hex(20),
            // Real ones have 400 to 2,000 characters, and they are base64.
            session_token: Some(format!("IQoJ{}+/==", random_hex(300))),
            principal,
            expires: Some(expires),
        };
        self.add(key.clone());
        key
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, AccessKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `arn:aws:sts::ACCOUNT:assumed-role/NAME/`; the role's path is not part of it.
pub(crate) fn session_prefix(role_arn: &str) -> String {
    let account = role_arn.split(':').nth(4).unwrap_or_default();
    let partition = role_arn.split(':').nth(1).unwrap_or_default();
    let name = role_arn.rsplit('/').next().unwrap_or_default();
    format!("arn:{partition}:sts::{account}:assumed-role/{name}/")
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AccessKey")
            .field("id", &self.id)
            .field("principal", &self.principal)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
