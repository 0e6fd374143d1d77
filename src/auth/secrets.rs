//! Secrets as they are now: given at start, in a file, or kept by Secrets Manager or Systems Manager.
//!
//! A secret is read anew each time it is used, which is seldom. Where it cannot be read, the last one is used on: a volume
//! that is being swapped and a store that is down must not end what still works. Imports `secret`, `clock`.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::aws::ProviderSource;
use super::aws_json::{AwsJson, Service};
use super::error::FetchError;
use super::refreshing::{Chain, Fetched, Refreshing, Source, WhenExpired};
use super::spec::{StoreEntry, StoredSecret};
use crate::clock::Moment;
use crate::secret::{Secret, SecretError, read_file};

/// How often a file is looked at, where its change matters at once. By content: a volume of Kubernetes changes by a symbolic
/// link, others in place or by a rename, and all of them look the same to a reader.
pub(super) const FILE_PAUSE: Duration = Duration::from_secs(5);
/// The same for a store, whose calls are billed.
const STORE_PAUSE: Duration = Duration::from_mins(1);

/// A store is asked for this long where the last secret is still known; longer, and that one is used on.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads one secret.
pub struct SecretReader {
    place: Place,
    known: Mutex<Known>,
}

#[derive(Clone, Default)]
struct Known {
    /// What was read last, and so what is in use.
    last: Option<Secret>,
    /// When it was looked at, in whatever way.
    looked: Option<Instant>,
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
        Self { place, known: Mutex::default() }
    }

    /// The secret as it is now; the last one while it cannot be read.
    ///
    /// # Errors
    /// [`FetchError::Secret`], [`FetchError::Stored`]: it could not be read, and never was.
    pub async fn read(&self) -> Result<Secret, FetchError> {
        let Some(last) = self.lock().last.clone() else { return self.read_now().await };
        let error = match timeout(PATIENCE, self.read_now()).await {
            Ok(Ok(secret)) => return Ok(secret),
            Ok(Err(error)) => error,
            Err(_elapsed) => FetchError::TimedOut { endpoint: format!("{self:?}"), limit: PATIENCE },
        };
        tracing::warn!(error = %Chain(&error), "a secret cannot be read; the last one is used on");
        Ok(last)
    }

    /// The secret as it is now, or nothing: for parts that must fit together.
    ///
    /// # Errors
    /// As [`SecretReader::read`], and while it cannot be read.
    pub async fn read_now(&self) -> Result<Secret, FetchError> {
        let secret = self.look().await?;
        self.lock().last = Some(secret.clone());
        Ok(secret)
    }

    /// Whether it is still the one that was read last.
    pub async fn still_holds(&self) -> bool {
        self.look().await.is_ok_and(|now| self.lock().last == Some(now))
    }

    /// The secret, if it is another than `used` by now.
    pub async fn other_than(&self, used: &Secret) -> Option<Secret> {
        if let Place::Fixed(_) = self.place {
            return None;
        }
        self.read().await.ok().filter(|secret| secret != used)
    }

    /// How often [`SecretReader::has_changed`] looks; `None` for one that never changes.
    pub fn pause(&self) -> Option<Duration> {
        match self.place {
            Place::Fixed(_) => None,
            Place::File(_) => Some(FILE_PAUSE),
            Place::Stored(_) => Some(STORE_PAUSE),
        }
    }

    /// Whether it is another than the one that was read last, or the first that can be read. Looks no more often than
    /// [`SecretReader::pause`] says, whatever else is asked beside it.
    pub async fn has_changed(&self) -> bool {
        let Some(pause) = self.pause() else { return false };
        let Known { last, looked } = self.lock().clone();
        // A timer may be a millisecond early.
        if looked.is_some_and(|looked| looked.elapsed() + Duration::from_millis(10) < pause) {
            return false;
        }
        self.look().await.is_ok_and(|now| last != Some(now))
    }

    async fn look(&self) -> Result<Secret, FetchError> {
        self.lock().looked = Some(Instant::now());
        match &self.place {
            Place::Fixed(secret) => Ok(secret.clone()),
            Place::File(path) => {
                let path = path.clone();
                // A network file system may take its time, and requests must not wait for it.
                let read = tokio::task::spawn_blocking({
                    let path = path.clone();
                    move || read_file(&path)
                });
                let stopped = |error| Err(SecretError::Unreadable { path, source: std::io::Error::other(error) });
                read.await.unwrap_or_else(stopped).map_err(FetchError::Secret)
            }
            Place::Stored(store) => {
                let outcome = Box::pin(store.read()).await;
                outcome.map_err(|source| FetchError::Stored { entry: store.describe(), source: Box::new(source) })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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
                value.secret_string.ok_or_else(|| self.unfit("it is binary, and only text can be used"))?
            }
            StoreEntry::Parameter(name) => {
                let input = GetParameter { name, with_decryption: true };
                let found: Parameter = self.json.call(&self.service, "GetParameter", &input, Some(keys)).await?;
                found.parameter.value
            }
        };
        let text = match &self.entry {
            StoreEntry::SecretsManager { key: Some(key), .. } => self.member(&text, key)?,
            StoreEntry::SecretsManager { key: None, .. } | StoreEntry::Parameter(_) => text,
        };
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(self.unfit("it is empty")),
            secret => Ok(Secret::from(secret)),
        }
    }

    fn describe(&self) -> String {
        match &self.entry {
            StoreEntry::SecretsManager { id, .. } => format!("secret \"{id}\" in Secrets Manager"),
            StoreEntry::Parameter(name) => format!("parameter \"{name}\" in Systems Manager"),
        }
    }

    fn member(&self, text: &str, key: &str) -> Result<Zeroizing<String>, FetchError> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text)
            .map_err(|_quotes_the_secret| self.unfit("it is not a JSON object, and `key` asks for a member of one"))?;
        match object.get(key) {
            Some(serde_json::Value::String(value)) => Ok(Zeroizing::new(value.clone())),
            Some(serde_json::Value::Number(value)) => Ok(Zeroizing::new(value.to_string())),
            Some(_) => Err(self.unfit(&format!("its member \"{key}\" is not a string"))),
            None => Err(self.unfit(&format!("it has no member \"{key}\""))),
        }
    }

    fn unfit(&self, problem: &str) -> FetchError {
        FetchError::Unfit { what: self.describe(), problem: problem.to_owned() }
    }
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
        // The http crate would also take bytes beyond ASCII, which servers read in different ways (RFC 9110 5.5).
        let value = HeaderValue::try_from(secret.expose()).ok().filter(|_| secret.expose().is_ascii());
        let mut value = value.ok_or_else(|| FetchError::Unfit {
            what: format!("the value of {}", self.name),
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

    /// When the next look is due.
    async fn changes(reader: &SecretReader) -> bool {
        tokio::time::advance(FILE_PAUSE).await;
        reader.has_changed().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_each_time_and_the_last_secret_outlives_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let reader = SecretReader::file(path.clone());
        assert!(matches!(reader.read().await, Err(FetchError::Secret(_))));
        assert!(!changes(&reader).await, "nothing can be read yet");
        std::fs::write(&path, "one\n").unwrap();
        assert!(!reader.has_changed().await, "it was looked at just now");
        assert!(changes(&reader).await);
        assert_eq!(reader.read().await.unwrap().expose(), "one");
        assert!(!changes(&reader).await && reader.still_holds().await);
        std::fs::write(&path, "").unwrap();
        assert!(!changes(&reader).await, "torn: it is being written");
        assert!(!reader.still_holds().await && reader.read_now().await.is_err());
        assert_eq!(reader.read().await.unwrap().expose(), "one");
        std::fs::write(&path, "two").unwrap();
        assert!(changes(&reader).await);
        assert_eq!(reader.other_than(&Secret::from("one")).await.unwrap().expose(), "two");
        assert!(reader.other_than(&Secret::from("two")).await.is_none());
        assert!(!changes(&reader).await);
    }

    #[cfg(unix)]
    #[tokio::test(start_paused = true)]
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
        assert!(changes(&reader).await);
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
