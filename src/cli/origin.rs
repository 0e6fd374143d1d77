//! Where a command's config comes from: a file, the environment, or flags that describe one route.
//!
//! Imports `config` and its neighbours.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use clap::Args;

use super::document::Document;
use super::draft::{Auth, Draft, Role};
use super::source::{self, SourceError};
use crate::admin;
use crate::config::{self, Compiled, Environment, Report};
use crate::telemetry::log::Level;

/// What stands for a file's name where there is none.
const FLAGS: &str = "the config that the flags make";

const OTHERS_THAN_SIGV4: [&str; 2] = ["client_credentials", "no_auth"];
const OTHERS_THAN_CLIENT: [&str; 2] = ["sigv4", "no_auth"];

/// The system chooses the port.
const ANY_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

#[derive(Args, Debug)]
pub(super) struct ConfigFile {
    /// The config file [default: `$COUNTERSIGN_CONFIG`, ./countersign.toml, /etc/countersign/config.toml; or the text
    /// in `$COUNTERSIGN_CONFIG_TOML`]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Origin {
    /// The config file [default: `$COUNTERSIGN_CONFIG`, ./countersign.toml, /etc/countersign/config.toml; or the text
    /// in `$COUNTERSIGN_CONFIG_TOML`]
    #[arg(long, value_name = "FILE", conflicts_with = "flags")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: RouteFlags,
}

/// One route, without a file.
///
/// Each flag names those that it does not go with: `requires` alone says nothing where what it asks for is ruled out by
/// another flag.
#[derive(Args, Debug)]
#[group(id = "flags", multiple = true)]
#[command(next_help_heading = "One route, without a config file")]
struct RouteFlags {
    /// Send every request there; no config is read.
    #[arg(long, value_name = "URL", requires = "how")]
    upstream: Option<String>,
    /// Sign with AWS Signature Version 4.
    #[arg(long, group = "how", requires = "upstream")]
    sigv4: bool,
    /// Send the token of a machine client.
    #[arg(long, group = "how", requires_all = ["upstream", "token_url", "client_id", "client_secret_env"])]
    client_credentials: bool,
    /// Send requests as they are.
    #[arg(long, group = "how", requires = "upstream")]
    no_auth: bool,
    /// Region of the signature, if the upstream's name does not tell it.
    #[arg(long, requires = "sigv4", conflicts_with_all = OTHERS_THAN_SIGV4)]
    region: Option<String>,
    /// Service of the signature, if not execute-api.
    #[arg(long, requires = "sigv4", conflicts_with_all = OTHERS_THAN_SIGV4)]
    service: Option<String>,
    /// AWS profile whose credentials sign.
    #[arg(long, requires = "sigv4", conflicts_with_all = OTHERS_THAN_SIGV4)]
    profile: Option<String>,
    /// Role to assume for the signature.
    #[arg(long, value_name = "ARN", requires = "sigv4", conflicts_with_all = OTHERS_THAN_SIGV4)]
    role_arn: Option<String>,
    /// What the role's trust policy asks for.
    #[arg(long, value_name = "ID", requires = "role_arn", conflicts_with_all = OTHERS_THAN_SIGV4)]
    external_id: Option<String>,
    /// Token endpoint.
    #[arg(long, value_name = "URL", requires = "client_credentials", conflicts_with_all = OTHERS_THAN_CLIENT)]
    token_url: Option<String>,
    /// Client id.
    #[arg(long, value_name = "ID", requires = "client_credentials", conflicts_with_all = OTHERS_THAN_CLIENT)]
    client_id: Option<String>,
    /// Name of the environment variable that holds the client's secret.
    #[arg(long, value_name = "NAME", requires = "client_credentials", conflicts_with_all = OTHERS_THAN_CLIENT)]
    client_secret_env: Option<String>,
    /// A scope to ask for; may be given several times.
    #[arg(long = "scope", value_name = "SCOPE", requires = "client_credentials", conflicts_with_all = OTHERS_THAN_CLIENT)]
    scopes: Vec<String>,
    /// Address to listen on; may be given several times.
    #[arg(long, value_name = "ADDRESS", requires = "upstream")]
    listen: Vec<String>,
}

/// What the proxy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It serves whoever comes to the ports that everybody knows.
    Service,
    /// It lives for one command, and says nothing but warnings beside it.
    Command(Ports),
}

/// Where the proxy of a command listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    /// Where the config says; a second one has to wait.
    Configured,
    /// Where the system chooses, so that any number can live side by side. Ports of single routes stay.
    Free,
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub(super) enum OriginError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Report(#[from] Report),
}

impl Origin {
    /// Reads and checks the config.
    ///
    /// # Errors
    /// [`OriginError`]; its flags are named by it.
    pub(super) fn load(&self, environment: &Environment, purpose: Purpose) -> Result<Compiled, OriginError> {
        if let Some(document) = self.flags.document(purpose) {
            return Ok(document.load(FLAGS, environment)?);
        }
        let source = source::find(self.config.as_deref(), environment)?;
        let mut compiled = config::load(&source, environment)?;
        let Purpose::Command(ports) = purpose else { return Ok(compiled) };
        if !config::level_is_written(&source, environment) {
            compiled.log.level = Level::warnings();
        }
        // Who has sockets alone wants no port.
        if ports == Ports::Free && !compiled.server.listen.is_empty() {
            compiled.server.listen = vec![ANY_PORT];
            compiled.server.sockets.clear();
            let max_connections = compiled.admin.max_connections;
            compiled.admin =
                admin::Settings { listen: ANY_PORT, health_listen: None, quit_token: None, max_connections };
        }
        Ok(compiled)
    }

    /// The file that it is read from, if it is from one.
    pub(super) fn file(&self, environment: &Environment) -> Option<PathBuf> {
        if self.flags.upstream.is_some() { None } else { source::file(self.config.as_deref(), environment) }
    }
}

impl RouteFlags {
    fn document(&self, purpose: Purpose) -> Option<Document> {
        let mut draft = Draft {
            upstream: self.upstream.clone()?,
            auth: self.auth(),
            listen: self.listen.clone(),
            admin: None,
            level: None,
        };
        if let Purpose::Command(_) = purpose {
            if draft.listen.is_empty() {
                draft.listen.push(ANY_PORT.to_string());
            }
            draft.admin = Some(ANY_PORT.to_string());
            draft.level = Some("warn");
        }
        Some(draft.document())
    }

    fn auth(&self) -> Auth {
        // What is required has been seen to by the declarations above.
        let given = |flag: &Option<String>| flag.clone().unwrap_or_default();
        if self.sigv4 {
            let external_id = self.external_id.clone();
            let role = self.role_arn.clone().map(|arn| Role { arn, external_id });
            let (region, service, profile) = (self.region.clone(), self.service.clone(), self.profile.clone());
            Auth::SigV4 { region, service, profile, role }
        } else if self.client_credentials {
            Auth::ClientCredentials {
                token_url: given(&self.token_url),
                client_id: given(&self.client_id),
                secret_variable: given(&self.client_secret_env),
                scopes: self.scopes.clone(),
            }
        } else {
            Auth::None
        }
    }
}
