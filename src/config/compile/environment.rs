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
        profile: filled(environment, "AWS_PROFILE"),
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

/// The region that the environment names, or the profile: that of this name, or of `AWS_PROFILE`.
pub(super) fn region_of_profile(name: Option<&str>, environment: &Environment) -> Option<String> {
    let named = region(environment).filter(|_| name.is_none());
    named.or_else(|| {
        let name = name.map(ToOwned::to_owned).or_else(|| filled(environment, "AWS_PROFILE"));
        let [config, credentials] = shared_files(environment);
        // The SDKs read both, and believe the second.
        [credentials, config].into_iter().flatten().find_map(|path| {
            let text = std::fs::read_to_string(path).ok()?;
            profile_region(&text, name.as_deref().unwrap_or("default")).map(ToOwned::to_owned)
        })
    })
}

/// `region` in `[profile NAME]` of the config file, or `[NAME]` of either file. Settings within settings are indented.
fn profile_region<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut is_in = false;
    for line in text.lines() {
        if let Some(head) = line.strip_prefix('[') {
            let head = head.split(']').next().unwrap_or_default().trim();
            let section = head.strip_prefix("profile").filter(|rest| rest.starts_with([' ', '\t'])).unwrap_or(head);
            is_in = section.trim() == name;
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| is_in) else { continue };
        if key.trim_end().eq_ignore_ascii_case("region") {
            // No region has a character that begins a comment.
            let value = value.split_once(['#', ';']).map_or(value, |(value, _comment)| value).trim();
            return (!value.is_empty()).then_some(value);
        }
    }
    None
}

fn filled(environment: &Environment, name: &str) -> Option<String> {
    environment.get(name).filter(|value| !value.is_empty()).map(ToOwned::to_owned)
}

/// The config file and the credentials file.
fn shared_files(environment: &Environment) -> [Option<PathBuf>; 2] {
    let home = filled(environment, "HOME").map(|home| Path::new(&home).join(".aws"));
    let shared = |variable: &str, name: &str| {
        let named = filled(environment, variable).map(PathBuf::from);
        named.or_else(|| home.as_ref().map(|home| home.join(name)))
    };
    [shared("AWS_CONFIG_FILE", "config"), shared("AWS_SHARED_CREDENTIALS_FILE", "credentials")]
}

fn files(environment: &Environment) -> Vec<PathBuf> {
    let files = shared_files(environment);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_that_of_its_profile() {
        let text = "region = us-west-1\n[default]\nregion=us-east-1\n# a comment\n[profile team]\nsso_region = us-east-2\n\
                    s3 =\n  region = eu-west-9\nRegion = eu-west-1 # ours\n[ profile far ]\nregion =\n[old]\r\nregion = eu-west-3\r\n";
        for (name, region) in [
            ("default", Some("us-east-1")),
            ("team", Some("eu-west-1")),
            ("far", None),
            ("old", Some("eu-west-3")),
            ("none", None),
        ] {
            assert_eq!(profile_region(text, name), region, "{name}");
        }
    }
}
