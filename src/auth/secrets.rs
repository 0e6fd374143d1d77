//! Secrets as they are now: given at start, in a file, or kept by Secrets Manager or Systems Manager.
//!
//! A secret is read anew each time it is used, which is seldom. Where it cannot be read, the last one is used on: a volume
//! that is being swapped and a store that is down must not end what still works. Imports `secret`.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::aws::ProviderSource;
use super::aws_json::{AwsJson, Service};
use super::error::FetchError;
use super::refreshing::{Chain, Fetched, Refreshing, Source, WhenExpired};
use super::spec::{StoreEntry, StoredSecret};
use crate::clock::Moment;
use crate::secret::{Secret, read_file};

/// How often a file is looked at, where its change matters at once. By content: a volume of Kubernetes changes by a symbolic
/// link, others in place or by a rename, and all of them look the same to a reader.
pub(super) const FILE_PAUSE: Duration = Duration::from_secs(5);
/// The same for a store, whose calls are billed.
const STORE_PAUSE: Duration = Duration::from_mins(1);

/// Reads one secret.
pub struct SecretReader {
    place: Place,
    /// What was read last, and so what is in use.
    last: Mutex<Option<Secret>>,
}

enum Place {
    Fixed(Secret),
    File(PathBuf),
    Stored(Box<Store>),
}

/// One entry of a store, and the keys it is read with.
pub(super) struct Store {
    entry: StoreEntry,
    service: Service,
    json: AwsJson,
    keys: Arc<Refreshing<ProviderSource>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetSecretValue<'a> {
    secret_id: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SecretValue {
    secret_string: Option<Zeroizing<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GetParameter<'a> {
    name: &'a str,
    with_decryption: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    parameter: ParameterValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ParameterValue {
    value: Zeroizing<String>,
}

impl SecretReader {
    /// Always the same.
    pub fn fixed(secret: Secret) -> Self {
        Self::new(Place::Fixed(secret))
    }

    /// The content of a file.
    pub fn file(path: PathBuf) -> Self {
        Self::new(Place::File(path))
    }

    /// An entry of a store, read with `keys`.
    pub fn stored(stored: &StoredSecret, json: AwsJson, keys: Arc<Refreshing<ProviderSource>>) -> Self {
        let StoredSecret { entry, region, endpoint, .. } = stored;
        let service = match entry {
            StoreEntry::SecretsManager { .. } => Service::secretsmanager(region, endpoint.as_deref()),
            StoreEntry::Parameter(_) => Service::ssm(region, endpoint.as_deref()),
        };
        Self::new(Place::Stored(Box::new(Store { entry: entry.clone(), service, json, keys })))
    }

    fn new(place: Place) -> Self {
        Self { place, last: Mutex::default() }
    }

    /// The secret as it is now; the last one while it cannot be read.
    ///
    /// # Errors
    /// [`FetchError::Secret`], [`FetchError::Stored`]: it could not be read, and never was.
    pub async fn read(&self) -> Result<Secret, FetchError> {
        let error = match self.look().await {
            Ok(secret) => {
                *self.lock() = Some(secret.clone());
                return Ok(secret);
            }
            Err(error) => error,
        };
        let last = self.lock().clone();
        if last.is_some() {
            tracing::warn!(error = %Chain(&error), "a secret cannot be read; the last one is used on");
        }
        last.ok_or(error)
    }

    /// The secret, if it is another than `used` by now.
    pub async fn other_than(&self, used: &Secret) -> Option<Secret> {
        if let Place::Fixed(_) = self.place {
            return None;
        }
        self.read().await.ok().filter(|secret| secret != used)
    }

    /// How often [`SecretReader::has_changed`] may be asked; `None` for one that never changes.
    pub fn pause(&self) -> Option<Duration> {
        match self.place {
            Place::Fixed(_) => None,
            Place::File(_) => Some(FILE_PAUSE),
            Place::Stored(_) => Some(STORE_PAUSE),
        }
    }

    /// Whether it is another than the one that was read last, or the first that can be read.
    pub async fn has_changed(&self) -> bool {
        if let Place::Fixed(_) = self.place {
            return false;
        }
        let Ok(now) = self.look().await else { return false };
        *self.lock() != Some(now)
    }

    async fn look(&self) -> Result<Secret, FetchError> {
        match &self.place {
            Place::Fixed(secret) => Ok(secret.clone()),
            Place::File(path) => read_file(path).map_err(FetchError::Secret),
            Place::Stored(store) => {
                let outcome = Box::pin(store.read()).await;
                outcome.map_err(|source| FetchError::Stored { entry: store.describe(), source: Box::new(source) })
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Secret>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    async fn read(&self) -> Result<Secret, FetchError> {
        let lease = self.keys.get().await;
        let lease = lease.map_err(|source| FetchError::NoBase { base: self.keys.status().name, source })?;
        let outcome = self.value(&lease.value).await;
        if let Err(FetchError::Refused { code, .. }) = &outcome
            && is_about_keys(code)
        {
            self.keys.reject(lease.generation);
        }
        outcome
    }

    async fn value(&self, keys: &super::aws::AwsKeys) -> Result<Secret, FetchError> {
        let text = match &self.entry {
            StoreEntry::SecretsManager { id, .. } => {
                let input = GetSecretValue { secret_id: id };
                let value: SecretValue = self.json.call(&self.service, "GetSecretValue", &input, Some(keys)).await?;
                value.secret_string.ok_or_else(|| unfit("it is binary, and only text can be used"))?
            }
            StoreEntry::Parameter(name) => {
                let input = GetParameter { name, with_decryption: true };
                let found: Parameter = self.json.call(&self.service, "GetParameter", &input, Some(keys)).await?;
                found.parameter.value
            }
        };
        let text = match &self.entry {
            StoreEntry::SecretsManager { key: Some(key), .. } => member(&text, key)?,
            StoreEntry::SecretsManager { key: None, .. } | StoreEntry::Parameter(_) => text,
        };
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(unfit("it is empty")),
            secret => Ok(Secret::from(secret)),
        }
    }

    fn describe(&self) -> String {
        match &self.entry {
            StoreEntry::SecretsManager { id, .. } => format!("secret \"{id}\" in Secrets Manager"),
            StoreEntry::Parameter(name) => format!("parameter \"{name}\" in Systems Manager"),
        }
    }
}

fn member(text: &str, key: &str) -> Result<Zeroizing<String>, FetchError> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
        .map_err(|_quotes_the_secret| unfit("it is not a JSON object, and `key` asks for a member of one"))?;
    match object.get(key) {
        Some(serde_json::Value::String(value)) => Ok(Zeroizing::new(value.clone())),
        Some(serde_json::Value::Number(value)) => Ok(Zeroizing::new(value.to_string())),
        Some(_) => Err(unfit(&format!("its member \"{key}\" is not a string"))),
        None => Err(unfit(&format!("it has no member \"{key}\""))),
    }
}

fn unfit(problem: &str) -> FetchError {
    FetchError::Unfit(problem.to_owned())
}

/// Whether other keys of the same owner may fare better.
pub(super) fn is_about_keys(code: &str) -> bool {
    matches!(code, "ExpiredTokenException" | "ExpiredToken" | "UnrecognizedClientException" | "InvalidClientTokenId")
}

/// The value of a header field, kept as any other credential.
#[derive(Debug)]
pub struct FieldSource {
    name: Arc<str>,
    reader: SecretReader,
}

impl FieldSource {
    /// `name` is what it is called in messages.
    pub fn new(name: Arc<str>, reader: SecretReader) -> Self {
        Self { name, reader }
    }
}

impl Source for FieldSource {
    type Value = HeaderValue;
    const WHEN_EXPIRED: WhenExpired = WhenExpired::UseOn;

    async fn fetch(&self, _now: Moment) -> Result<Fetched<HeaderValue>, FetchError> {
        let secret = self.reader.read().await?;
        let mut value = HeaderValue::try_from(secret.expose()).map_err(|_not_quoted| FetchError::Malformed {
            endpoint: self.name.to_string(),
            problem: "it has characters that no header field can have".to_owned(),
        })?;
        value.set_sensitive(true);
        Ok(Fetched::new(value, None))
    }

    fn describe(&self) -> String {
        "value of a header field".to_owned()
    }

    fn pause(&self) -> Option<Duration> {
        self.reader.pause()
    }

    async fn has_changed(&self) -> bool {
        self.reader.has_changed().await
    }
}

/// A header field whose value is kept.
#[derive(Clone, Debug)]
pub struct LiveField {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: Arc<Refreshing<FieldSource>>,
}

impl fmt::Debug for SecretReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Fixed(_) => f.write_str("SecretReader(fixed)"),
            Place::File(path) => write!(f, "SecretReader({})", path.display()),
            Place::Stored(store) => write!(f, "SecretReader({})", store.describe()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_each_time_and_the_last_secret_outlives_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let reader = SecretReader::file(path.clone());
        assert!(matches!(reader.read().await, Err(FetchError::Secret(_))));
        assert!(!reader.has_changed().await, "nothing can be read yet");
        std::fs::write(&path, "one\n").unwrap();
        assert!(reader.has_changed().await);
        assert_eq!(reader.read().await.unwrap().expose(), "one");
        assert!(!reader.has_changed().await);
        std::fs::write(&path, "").unwrap();
        assert!(!reader.has_changed().await, "torn: it is being written");
        assert_eq!(reader.read().await.unwrap().expose(), "one");
        std::fs::write(&path, "two").unwrap();
        assert!(reader.has_changed().await);
        assert_eq!(reader.other_than(&Secret::from("one")).await.unwrap().expose(), "two");
        assert!(reader.other_than(&Secret::from("two")).await.is_none());
        assert!(!reader.has_changed().await);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_volume_of_kubernetes_changes_by_its_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, secret) in [("..1", "one"), ("..2", "two")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("secret"), secret).unwrap();
        }
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/secret", at("secret")).unwrap();
        let reader = SecretReader::file(at("secret"));
        assert_eq!(reader.read().await.unwrap().expose(), "one");
        std::os::unix::fs::symlink("..2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(reader.has_changed().await);
        assert_eq!(reader.read().await.unwrap().expose(), "two");
    }

    #[tokio::test]
    async fn what_was_given_at_start_never_changes() {
        let reader = SecretReader::fixed("s3cret".into());
        assert_eq!(reader.read().await.unwrap().expose(), "s3cret");
        assert!(reader.pause().is_none() && !reader.has_changed().await);
        assert!(reader.other_than(&Secret::from("else")).await.is_none());
        assert_eq!(format!("{reader:?}"), "SecretReader(fixed)");
    }
}
