//! Secrets: where they are, and whether they can be read now.

use std::path::Path;

use super::auth::filled;
use super::role;
use super::sigv4::{self, optional};
use super::{Context, environment, user};
use crate::auth::spec::{SecretSource, StoreEntry, StoredSecret};
use crate::config::diagnostic::Span;
use crate::config::raw::{Literal, RawSecret, RawStored};
use crate::config::read::is_variable;
use crate::secret::{Secret, SecretError, read_file};

/// The secret, where it can be had without asking anybody.
pub(super) fn known(source: &SecretSource) -> Option<Secret> {
    match source {
        SecretSource::Fixed(secret) => Some(secret.clone()),
        SecretSource::File(path) => read_file(path).ok(),
        SecretSource::Stored(_) => None,
    }
}

/// Where the secret of `key` is; a problem is noted when it is not there.
pub(super) fn find(key: &str, secret: &RawSecret, context: &mut Context<'_>) -> Option<SecretSource> {
    match secret {
        RawSecret::Env(name) => {
            if !is_variable(&name.value) {
                // Not quoted: it may be the secret itself.
                let message = format!("`env` of `{key}` is not the name of an environment variable");
                context.problems.error(name.span, message).help("name the variable, without `$`: { env = \"NAME\" }");
                return None;
            }
            let state = match context.environment.get(&name.value) {
                None => "is not set",
                Some("") => "is empty",
                Some(found) => return Some(SecretSource::Fixed(Secret::from(found))),
            };
            let message = format!("environment variable {} of `{key}` {state}", &*name.value);
            context.problems.error(name.span, message).help("set it where countersign is started");
            None
        }
        RawSecret::File(path) => {
            let source = SecretSource::File(context.file(&path.value));
            match read_file(&context.file(&path.value)) {
                Ok(_) => {
                    warn_if_open(
                        &format!("the secret file of `{key}`"),
                        path.span,
                        &context.file(&path.value),
                        context,
                    );
                    Some(source)
                }
                Err(error) => {
                    let file = context.file(&path.value);
                    let why = match error {
                        SecretError::Empty(_) => "is empty".to_owned(),
                        SecretError::TooLarge(_) => "is larger than any secret".to_owned(),
                        SecretError::Unreadable { source, .. } => format!("cannot be read: {source}"),
                    };
                    let problem = context.problems.error(path.span, format!("the secret file of `{key}` {why}"));
                    problem.help(format!("it is looked for at {}", file.display()));
                    None
                }
            }
        }
        RawSecret::Stored(raw) => stored(raw, context),
        RawSecret::Value(literal) => match &literal.value {
            Literal::InFile(secret) | Literal::FromEnvironment(secret) if secret.expose().is_empty() => {
                context.problems.error(literal.span, format!("the secret `{key}` is empty"));
                None
            }
            Literal::FromEnvironment(secret) => Some(SecretSource::Fixed(secret.clone())),
            Literal::InFile(secret) => {
                let message = format!("the secret `{key}` stands in the config file itself");
                let problem = context.problems.warning(literal.span, message);
                problem
                    .help("use { env = \"NAME\" } or { file = \"path\" }, so that the config can be shown and shared");
                Some(SecretSource::Fixed(secret.clone()))
            }
        },
    }
}

/// A secret that AWS keeps; whether it is there, only a call can tell.
fn stored(raw: &RawStored, context: &mut Context<'_>) -> Option<SecretSource> {
    let key = raw.key.as_ref().map(|text| filled("key", text, context));
    let (text, name) = match (&raw.secretsmanager, &raw.ssm) {
        (Some(text), _) => (text, "secretsmanager"),
        (None, Some(text)) => (text, "ssm"),
        // Its type has been noted.
        (None, None) => return None,
    };
    if let (None, Some(key)) = (&raw.secretsmanager, &raw.key) {
        context.problems.error(key.span, "`key` belongs to `secretsmanager`").help("a parameter is taken whole");
    }
    let id = filled(name, text, context);
    let region = match (&raw.region, region_of_arn(&text.value), environment::region(context.environment)) {
        (Some(text), _, _) => sigv4::region(text, context),
        (None, Some(region), _) | (None, None, Some(region)) => Some(region),
        (None, None, None) => {
            let problem = context.problems.error(text.span, "the region of this secret is not known");
            problem.help("set `region` beside it, write its ARN, or set AWS_REGION");
            None
        }
    };
    let source = sigv4::credentials(&raw.credentials.value, context);
    let roles = role::compile(raw.assume_role.as_ref(), "secrets", &raw.credentials.value, context);
    let endpoint = optional(raw.endpoint.as_ref().map(|text| user::endpoint(text, context)))?;
    let (region, id, key) = (region?, id?, optional(key)?);
    let entry = match &raw.secretsmanager {
        Some(_) => StoreEntry::SecretsManager { id, key },
        None => StoreEntry::Parameter(id),
    };
    let credentials = sigv4::Owner { source: source?, roles: roles? }.in_region(&region);
    Some(SecretSource::Stored(Box::new(StoredSecret { entry, region, credentials, endpoint })))
}

/// The region in `arn:PARTITION:SERVICE:REGION:…`.
fn region_of_arn(text: &str) -> Option<String> {
    text.strip_prefix("arn:")?.split(':').nth(2).filter(|region| !region.is_empty()).map(ToOwned::to_owned)
}

/// Warns of a file that every user of the machine can read.
#[cfg(unix)]
pub(super) fn warn_if_open(what: &str, span: Span, path: &Path, context: &mut Context<'_>) {
    use std::os::unix::fs::PermissionsExt;

    // A volume that Kubernetes mounts is 0644 by default, in a file system that only its pod sees.
    if path.parent().is_some_and(|folder| folder.join("..data").exists()) {
        return;
    }
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 {
        let problem = context.problems.warning(span, format!("{what} can be read by every user of this machine"));
        problem.help(format!("chmod o-r {}", path.display()));
    }
}

/// Elsewhere there are no mode bits to look at.
#[cfg(not(unix))]
pub(super) fn warn_if_open(_: &str, _: Span, _: &Path, _: &mut Context<'_>) {}
