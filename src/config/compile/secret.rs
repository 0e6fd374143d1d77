//! Secrets: where they are, and whether they can be read now.

use std::path::Path;

use super::Context;
use crate::config::diagnostic::Span;
use crate::config::raw::{Literal, RawSecret};
use crate::config::read::is_variable;
use crate::secret::{Secret, SecretError, SecretSource};

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
            match source.read() {
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
                        SecretError::Unreadable { source, .. } => format!("cannot be read: {source}"),
                    };
                    let problem = context.problems.error(path.span, format!("the secret file of `{key}` {why}"));
                    problem.help(format!("it is looked for at {}", file.display()));
                    None
                }
            }
        }
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
