//! What the environment says about AWS credentials and proxies, in variables that are not ours: looked up here, in what
//! `cli` has read.

use std::path::{Path, PathBuf};

use super::Context;
use super::url::{Query, Url};
use crate::auth::spec::{AwsEnvironment, ContainerEnvironment};
use crate::config::Environment;
use crate::config::diagnostic::Span;
use crate::egress::{Egress, NoProxy, ProxyUrl};
use crate::secret::Secret;

/// The variables that matter, taken from the environment of `context`.
pub(super) fn aws(context: &mut Context<'_>) -> AwsEnvironment {
    let environment = context.environment;
    AwsEnvironment {
        files: files(environment),
        container: ContainerEnvironment {
            relative_uri: filled(environment, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(Secret::new),
            full_uri: filled(environment, "AWS_CONTAINER_CREDENTIALS_FULL_URI").map(Secret::new),
            token: filled(environment, "AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Secret::new),
            token_file: filled(environment, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
        },
        sts_endpoint: sts_endpoint(context),
    }
}

/// The proxy of the environment, by curl's rules: lower case wins, `https_proxy` before `all_proxy`. `http_proxy` is for
/// plain HTTP, which leaves this machine never.
pub(super) fn egress(context: &mut Context<'_>) -> Egress {
    let environment = context.environment;
    let both = |name: &'static str, upper: &'static str| {
        [name, upper].into_iter().find_map(|name| Some((name, filled(environment, name)?)))
    };
    let Some((name, url)) = both("https_proxy", "HTTPS_PROXY").or_else(|| both("all_proxy", "ALL_PROXY")) else {
        return Egress::direct();
    };
    let except = match both("no_proxy", "NO_PROXY") {
        None => NoProxy::default(),
        Some((name, list)) => {
            let list = NoProxy::parse(&list);
            for item in list.unread() {
                let message = format!("{name} in the environment has an item that covers nothing: {item:?}");
                let problem = context.problems.warning(Span::NOWHERE, message);
                problem.help("write a name, an address or a CIDR block, or \"*\"");
            }
            list
        }
    };
    match ProxyUrl::parse(&url) {
        Ok(proxy) => Egress::through(proxy, except),
        Err(error) => {
            // Not quoted: it may hold a password. Going straight instead would only fail later and say less.
            let problem = context.problems.error(Span::NOWHERE, format!("{name} in the environment {error}"));
            problem.help("unset it, or write `proxy = \"none\"` or a proxy's URL in [upstream]");
            Egress::direct()
        }
    }
}

/// The region that the environment names.
pub(super) fn region(environment: &Environment) -> Option<String> {
    filled(environment, "AWS_REGION").or_else(|| filled(environment, "AWS_DEFAULT_REGION"))
}

fn filled(environment: &Environment, name: &str) -> Option<String> {
    environment.get(name).filter(|value| !value.is_empty()).map(ToOwned::to_owned)
}

fn files(environment: &Environment) -> Vec<PathBuf> {
    let home = filled(environment, "HOME").map(|home| Path::new(&home).join(".aws"));
    let shared = |variable: &str, name: &str| {
        let named = filled(environment, variable).map(PathBuf::from);
        named.or_else(|| home.as_ref().map(|home| home.join(name)))
    };
    let files = [shared("AWS_CONFIG_FILE", "config"), shared("AWS_SHARED_CREDENTIALS_FILE", "credentials")];
    let token = filled(environment, "AWS_WEB_IDENTITY_TOKEN_FILE").map(PathBuf::from);
    files.into_iter().flatten().chain(token).collect()
}

/// Somebody else's STS would be sent signed requests, and its keys would be believed: so it is said aloud.
fn sts_endpoint(context: &mut Context<'_>) -> Option<String> {
    const VARIABLE: &str = "AWS_ENDPOINT_URL_STS";
    let ignored = context.environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|value| value == "true");
    let text = filled(context.environment, VARIABLE).filter(|_| !ignored)?;
    // Not quoted: it may hold a password.
    match Url::parse(&text, Query::Refused) {
        Ok(url) if url.path.is_empty() => {
            let message = format!("{VARIABLE} is set: roles are assumed at {url}");
            context.problems.warning(Span::NOWHERE, message).help("unset it, if that is not meant");
            Some(url.to_string())
        }
        Ok(_) => {
            let problem = context.problems.error(Span::NOWHERE, format!("{VARIABLE} has a path"));
            problem.help("write scheme, host and port alone, or unset it");
            None
        }
        Err(error) => {
            let problem = context.problems.error(Span::NOWHERE, format!("{VARIABLE} {error}"));
            problem.help("write https://HOST, or http:// on loopback, or unset it");
            None
        }
    }
}
