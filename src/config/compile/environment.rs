//! What the environment says about AWS credentials, in the SDKs' own variables: read here, since only `cli` may read the
//! environment itself.

use std::path::{Path, PathBuf};

use super::Context;
use crate::auth::spec::{AwsEnvironment, ContainerEnvironment};
use crate::config::Environment;
use crate::config::diagnostic::Span;
use crate::egress::{Egress, NoProxy, ProxyUrl, is_loopback};
use crate::secret::Secret;

/// The variables that matter, taken from the environment of `context`.
pub(super) fn aws(context: &mut Context<'_>) -> AwsEnvironment {
    let environment = context.environment;
    AwsEnvironment {
        files: files(environment),
        container: ContainerEnvironment {
            relative_uri: filled(environment, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            full_uri: filled(environment, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
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
    let except = both("no_proxy", "NO_PROXY").map(|(_, list)| NoProxy::parse(&list)).unwrap_or_default();
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
    let url = filled(context.environment, VARIABLE).filter(|_| !ignored)?;
    let parsed: Option<http::Uri> = url.parse().ok();
    let host = parsed.as_ref().and_then(http::Uri::host);
    let trusted = match parsed.as_ref().and_then(http::Uri::scheme_str) {
        Some("https") => host.is_some(),
        Some("http") => host.is_some_and(is_loopback),
        _ => false,
    };
    if trusted {
        let message = format!("{VARIABLE} is set: roles are assumed at {url}");
        context.problems.warning(Span::NOWHERE, message).help("unset it, if that is not meant");
        return Some(url.trim_end_matches('/').to_owned());
    }
    let problem = context.problems.error(Span::NOWHERE, format!("{VARIABLE} is not https://, nor http:// on loopback"));
    problem.help("signed requests and temporary keys do not go over plain HTTP");
    None
}
