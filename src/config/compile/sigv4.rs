//! `kind = "sigv4"`: whose signature, and in which region's scope.

use super::auth::filled;
use super::role::{self, Role};
use super::url::Url;
use super::{Context, environment, identity_pool, secret};
use crate::auth::spec::{AwsCredentials, AwsSource, PayloadSigning, SigV4};
use crate::config::raw::{RawCredentials, RawSigV4, RawStatic};
use crate::config::read::{At, Text};
use crate::route::upstream::region_of;

/// A sigv4 table, still without the region of a route.
pub(super) struct Signing {
    region: Option<String>,
    service: String,
    owner: Owner,
    payload: PayloadSigning,
}

/// Whose credentials, still without the region of their calls.
pub(super) struct Owner {
    pub(super) source: AwsSource,
    pub(super) roles: Vec<Role>,
}

impl Owner {
    /// The credentials, where calls go to `region` unless a role says otherwise.
    pub(super) fn in_region(&self, region: &str) -> AwsCredentials {
        let roles = self.roles.iter().map(|role| role.in_region(region)).collect();
        AwsCredentials { source: self.source.clone(), roles }
    }

    /// The region that comes with the credentials, where they are found as the SDKs find them.
    fn own_region(&self, context: &Context<'_>) -> Option<String> {
        let profile = match &self.source {
            AwsSource::Default => None,
            AwsSource::Profile(name) => Some(name.as_str()),
            AwsSource::Environment
            | AwsSource::Container
            | AwsSource::Instance
            | AwsSource::WebIdentity
            | AwsSource::Static { .. }
            | AwsSource::IdentityPool { .. } => return None,
        };
        environment::region_of_profile(profile, context.environment).filter(|region| is_region(region))
    }
}

/// A route's upstream.
#[derive(Clone, Copy)]
pub(super) struct Toward<'a> {
    pub(super) text: &'a At<Text>,
    pub(super) url: &'a Url,
    /// The host that is dialled.
    pub(super) dial: Option<&'a str>,
}

impl Signing {
    pub(super) fn compile(raw: &RawSigV4, name: &str, context: &mut Context<'_>) -> Option<Self> {
        let region = raw.region.as_ref().map(|text| region(text, context));
        let service = service(&raw.service, context);
        let source = credentials(&raw.credentials.value, context);
        let roles = role::compile(raw.assume_role.as_ref(), name, &raw.credentials.value, context);
        let payload = raw.payload.value;
        if payload == PayloadSigning::Unsigned && service.as_deref() == Some("execute-api") {
            let problem =
                context.problems.warning(raw.payload.span, "API Gateway is not known to take unsigned payloads");
            problem.help("leave `payload` out, unless `service` is one that takes them, such as vpc-lattice-svcs");
        }
        // An inner `None` has been noted.
        let owner = Owner { source: source?, roles: roles? };
        Some(Self { region: optional(region)?, service: service?, owner, payload })
    }

    /// What this table means for a route to `upstream`; `name` is the table's.
    pub(super) fn toward(&self, upstream: &Toward<'_>, name: &str, context: &mut Context<'_>) -> Option<SigV4> {
        let Toward { text, url, dial } = *upstream;
        // A custom domain says nothing, but the VPC endpoint that is dialled for it does.
        let inferred = region_of(&url.host).or_else(|| dial.and_then(region_of));
        let region = match (&self.region, inferred) {
            (Some(region), Some(inferred)) if region != inferred => {
                let message = format!("this upstream is in {inferred}, and [auth.{name}] signs for {region}");
                let problem = context.problems.warning(text.span, message);
                problem.help(format!("leave `region` out of [auth.{name}], and it is read from the upstream's name"));
                region.clone()
            }
            (Some(region), _) => region.clone(),
            (None, Some(inferred)) => inferred.to_owned(),
            (None, None) => {
                if let Some(region) = self.owner.own_region(context) {
                    return Some(self.in_region(region));
                }
                let message = format!("the region for [auth.{name}] cannot be read from this upstream's name");
                let problem = context.problems.error(text.span, message);
                problem.help(format!("only execute-api names have it; set `region` in [auth.{name}]"));
                return None;
            }
        };
        Some(self.in_region(region))
    }

    fn in_region(&self, region: String) -> SigV4 {
        let credentials = self.owner.in_region(&region);
        SigV4 { region, service: self.service.clone(), credentials, payload: self.payload }
    }
}

/// Turns "there, but wrong" into `None` and "not there" into `Some(None)`.
#[expect(clippy::option_option, reason = "the outer one is the error, which has been noted")]
pub(super) fn optional<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(None) => None,
        Some(value) => Some(value),
    }
}

pub(super) fn region(text: &At<Text>, context: &mut Context<'_>) -> Option<String> {
    let region = filled("region", text, context)?;
    if !is_region(&region) {
        let problem = context.problems.error(text.span, format!("{} is not the name of a region", text.value));
        problem.help("write it as in \"ap-northeast-1\", without the letter of an availability zone");
        return None;
    }
    let zone = region
        .strip_suffix(|last: char| last.is_ascii_lowercase())
        .is_some_and(|start| start.ends_with(|last: char| last.is_ascii_digit()));
    if zone {
        let problem = context.problems.error(text.span, format!("{} is an availability zone", text.value));
        problem.help("write the region, without the letter at the end");
        return None;
    }
    Some(region)
}

fn is_region(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.bytes().all(allowed) && text.contains('-')
}

fn service(text: &At<Text>, context: &mut Context<'_>) -> Option<String> {
    let service = filled("service", text, context)?;
    if service.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Some(service);
    }
    let problem = context.problems.error(text.span, format!("{} is not a service's signing name", text.value));
    problem.help("it is \"execute-api\" for API Gateway");
    None
}

pub(super) fn credentials(raw: &RawCredentials, context: &mut Context<'_>) -> Option<AwsSource> {
    match raw {
        RawCredentials::Default => Some(AwsSource::Default),
        RawCredentials::Environment => Some(AwsSource::Environment),
        RawCredentials::Container => Some(AwsSource::Container),
        RawCredentials::Instance => Some(AwsSource::Instance),
        RawCredentials::WebIdentity => Some(AwsSource::WebIdentity),
        RawCredentials::Profile(name) => filled("profile", name, context).map(AwsSource::Profile),
        RawCredentials::Static(RawStatic { access_key_id, secret_access_key, session_token }) => {
            let mut find =
                |key, raw: &Option<At<_>>| raw.as_ref().and_then(|raw| secret::find(key, &raw.value, context));
            let id = find("access_key_id", access_key_id);
            let key = find("secret_access_key", secret_access_key);
            let token = session_token.as_ref().map(|_| find("session_token", session_token));
            Some(AwsSource::Static { access_key_id: id?, secret_access_key: key?, session_token: optional(token)? })
        }
        RawCredentials::IdentityPool(raw) => identity_pool::compile(raw, context),
    }
}
