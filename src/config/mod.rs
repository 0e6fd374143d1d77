//! The config file: as written ([`raw`]), as meant ([`Compiled`]), and what is wrong with it ([`diagnostic`]).
//!
//! [`load`] reports every problem of a file in one run, and never shows a value that may be secret. It reads files that
//! the config names and nothing else: no network, and no environment but the one it is given. Imports the modules whose
//! settings it fills.

mod compile;
pub mod diagnostic;
mod mask;
pub mod raw;
mod read;
mod syntax;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

pub use diagnostic::{Diagnostic, Report, Severity};

use http::HeaderName;

use crate::{admin, auth, egress, proxy, route, server, telemetry, tls};

/// A file that is larger is no config: 4 MiB are tens of thousands of routes, and a `ConfigMap` ends at 1 MiB.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// A config file's text.
#[derive(Clone)]
pub struct Source {
    /// As it is called in diagnostics.
    pub name: String,
    /// TOML.
    pub text: String,
    /// What relative file names in it start from.
    pub folder: PathBuf,
}

/// Tells configs apart by their text. Prints as 8 hex digits: enough to see which of a fleet have which, and too little to
/// try out guesses at a secret that stands in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Source {
    /// The file at `path`. Blocks while it reads it.
    ///
    /// # Errors
    /// That of the file system; `InvalidData` for what is no text, or larger than any config.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut text = String::new();
        File::open(path)?.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > LARGEST_FILE {
            let message = format!("it is larger than {LARGEST_FILE} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        Ok(Self { name: path.display().to_string(), text, folder })
    }

    /// Of its text.
    pub fn hash(&self) -> Hash {
        let mut hash = Hash::default();
        hash.0.copy_from_slice(digest(&SHA256, self.text.as_bytes()).as_ref());
        hash
    }
}

/// Environment variables, as `cli` read them. Does not print values.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// A config that is known to be right: everything is parsed, resolved and checked against everything else.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Log lines.
    pub log: telemetry::log::Settings,
    /// Where spans of requests go, if anywhere.
    pub traces: Option<telemetry::traces::Settings>,
    /// Admin port.
    pub admin: admin::Settings,
    /// Listeners and connections.
    pub server: server::Settings,
    /// Limits over all routes.
    pub proxy: proxy::Settings,
    /// TLS of token and STS calls: `ca_file` and `http2` of `[upstream]`.
    pub control: tls::ClientSettings,
    /// Bytes of an answer to those calls.
    pub largest_answer: usize,
    /// The proxy on the way of token and AWS calls: `proxy` of `[upstream]`.
    pub egress: egress::Egress,
    /// What the environment says about AWS credentials.
    pub aws: auth::spec::AwsEnvironment,
    /// What tokens are shared through.
    pub token_cache: Option<auth::shared::Settings>,
    /// In the order of the file; never empty.
    pub routes: Vec<route::Route>,
    /// What routes authorise with; one for each pair of `[auth]` table and region that a route uses.
    pub schemes: Vec<auth::spec::Spec>,
    /// Header values that are secrets and may change.
    pub fields: Vec<auth::spec::SecretField>,
    /// Of the text that it was compiled from.
    pub hash: Hash,
    /// What is allowed and should be known, in the order of the file. Each prints as its whole paragraph.
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks a config.
///
/// Blocks while it reads the secret and PEM files that the config names.
///
/// # Errors
/// [`Report`] with all problems, warnings among them. Exit code 78.
pub fn load(source: &Source, environment: &Environment) -> Result<Compiled, Report> {
    read(source, environment, compile::Authority::Needed)
}

/// The same before there is a developer's authority: `ca_cert` and `ca_key` may be missing, in the file and on the disk.
///
/// # Errors
/// As [`load`].
pub fn load_without_authority(source: &Source, environment: &Environment) -> Result<Compiled, Report> {
    read(source, environment, compile::Authority::NotYet)
}

fn read(source: &Source, environment: &Environment, authority: compile::Authority) -> Result<Compiled, Report> {
    let mut problems = diagnostic::Problems::default();
    let compiled = raw::read(source, environment, &mut problems).map(|raw| {
        let mut context = compile::Context::new(environment, &source.folder, &mut problems);
        context.authority = authority;
        compile::compile(raw, &mut context)
    });
    let failed = problems.has_errors();
    let diagnostics = problems.place(&source.name, &source.text);
    match compiled {
        Some(compiled) if !failed => Ok(Compiled { hash: source.hash(), warnings: diagnostics, ..compiled }),
        _ => Err(Report { file: source.name.clone(), diagnostics }),
    }
}

/// The admin port alone, whatever else is wrong with the config.
pub fn admin_listen(source: &Source, environment: &Environment) -> Option<SocketAddr> {
    let mut problems = diagnostic::Problems::default();
    raw::read(source, environment, &mut problems).map(|raw| raw.admin.listen.value)
}

/// Whether the config says which lines are logged, whatever else is wrong with it.
pub fn level_is_written(source: &Source, environment: &Environment) -> bool {
    let mut problems = diagnostic::Problems::default();
    raw::read(source, environment, &mut problems).is_some_and(|raw| raw.log.level.span.is_written())
}

/// Whether no route that signs may set or remove the field, because countersign writes it.
pub fn is_written_by_signing(name: &HeaderName) -> bool {
    compile::is_written_by_signing(name)
}

impl Environment {
    /// Takes the variables.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(variables.into_iter().collect())
    }

    /// The same with one more, or another value for it.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut variables = self.0.clone();
        variables.insert(name.to_owned(), value.to_owned());
        Self(variables)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text may hold secrets.
        f.debug_struct("Source").field("name", &self.name).field("folder", &self.folder).finish_non_exhaustive()
    }
}
