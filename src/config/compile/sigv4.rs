//! `kind = "sigv4"`: whose signature, and in which region's scope.

use std::time::Duration;

use super::auth::{Logins, filled};
use super::identity_pool;
use super::url::{self, Query, Url};
use super::{Context, secret};
use crate::auth::spec::{AssumeRole, AwsCredentials, AwsSource, PayloadSigning, SigV4};
use crate::config::raw::{RawAssumeRole, RawCredentials, RawSigV4, RawStatic};
use crate::config::read::{At, Text};
use crate::route::upstream::region_of;
use crate::units::format_duration;

/// STS's own limits (API reference of `AssumeRole`, `DurationSeconds`).
const SHORTEST: Duration = Duration::from_mins(15);
const LONGEST: Duration = Duration::from_hours(12);

/// A sigv4 table, still without the region of a route.
pub(super) struct Signing {
    region: Option<String>,
    service: String,
    source: AwsSource,
    role: Option<Role>,
    payload: PayloadSigning,
}

/// A route's upstream.
#[derive(Clone, Copy)]
pub(super) struct Toward<'a> {
    pub(super) text: &'a At<Text>,
    pub(super) url: &'a Url,
    /// The host that is dialled.
    pub(super) dial: Option<&'a str>,
}

struct Role {
    arn: String,
    external_id: Option<String>,
    session_name: String,
    duration: Duration,
    endpoint: Option<String>,
}

impl Signing {
    pub(super) fn compile(raw: &RawSigV4, name: &str, logins: &Logins, context: &mut Context<'_>) -> Option<Self> {
        let region = raw.region.as_ref().map(|text| region(text, context));
        let service = service(&raw.service, context);
        let source = credentials(&raw.credentials.value, logins, context);
        let role = raw.assume_role.as_ref().map(|role| assume_role(&role.value, name, context));
        let payload = raw.payload.value;
        if payload == PayloadSigning::Unsigned && service.as_deref() == Some("execute-api") {
            let problem =
                context.problems.warning(raw.payload.span, "API Gateway is not known to take unsigned payloads");
            problem.help("leave `payload` out, unless `service` is one that takes them, such as vpc-lattice-svcs");
        }
        // An inner `None` has been noted.
        Some(Self { region: optional(region)?, service: service?, source: source?, role: optional(role)?, payload })
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
                let message = format!("the region for [auth.{name}] cannot be read from this upstream's name");
                let problem = context.problems.error(text.span, message);
                problem.help(format!("only execute-api names have it; set `region` in [auth.{name}]"));
                return None;
            }
        };
        let assume_role = self.role.as_ref().map(|role| AssumeRole {
            arn: role.arn.clone(),
            external_id: role.external_id.clone(),
            session_name: role.session_name.clone(),
            duration: role.duration,
            region: region.clone(),
            endpoint: role.endpoint.clone(),
        });
        let credentials = AwsCredentials { source: self.source.clone(), assume_role };
        Some(SigV4 { region, service: self.service.clone(), credentials, payload: self.payload })
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
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !region.bytes().all(allowed) || !region.contains('-') {
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

fn service(text: &At<Text>, context: &mut Context<'_>) -> Option<String> {
    let service = filled("service", text, context)?;
    if service.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Some(service);
    }
    let problem = context.problems.error(text.span, format!("{} is not a service's signing name", text.value));
    problem.help("it is \"execute-api\" for API Gateway");
    None
}

pub(super) fn credentials(raw: &RawCredentials, logins: &Logins, context: &mut Context<'_>) -> Option<AwsSource> {
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
        RawCredentials::IdentityPool(raw) => identity_pool::compile(raw, logins, context),
    }
}

fn assume_role(raw: &RawAssumeRole, name: &str, context: &mut Context<'_>) -> Option<Role> {
    let arn = raw.arn.as_ref().and_then(|text| role_arn(text, context));
    let external_id =
        raw.external_id.as_ref().map(|text| matching("external_id", text, (2, 1224), b"+=,.@:/-_", context));
    let session_name = match &raw.session_name {
        Some(text) => matching("session_name", text, (2, 64), b"+=,.@-_", context),
        None => Some(session_name(name)),
    };
    let duration = raw.duration.value;
    let in_range = (SHORTEST..=LONGEST).contains(&duration);
    if !in_range {
        let message = format!("`duration` of {} is not between 15m and 12h", format_duration(duration));
        let problem = context.problems.error(raw.duration.span, message);
        problem.help("STS takes no other; 1h is the most where the caller is itself a role");
    }
    let endpoint = raw.endpoint.as_ref().map(|text| url::read("endpoint", text, Query::Refused, context));
    Some(Role {
        arn: arn?,
        external_id: optional(external_id)?,
        session_name: session_name?,
        duration,
        endpoint: optional(endpoint)?.map(|url| url.to_string()),
    })
}

/// `countersign-NAME`, in the characters and the length that STS takes.
fn session_name(name: &str) -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(*c);
    format!("countersign-{name}").chars().filter(allowed).take(64).collect()
}

/// STS's patterns: letters, digits and a few more (API reference of `AssumeRole`).
fn matching(
    key: &str,
    text: &At<Text>,
    (shortest, longest): (usize, usize),
    others: &[u8],
    context: &mut Context<'_>,
) -> Option<String> {
    let fits = (shortest..=longest).contains(&text.value.len())
        && text.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte));
    if !fits {
        let others = String::from_utf8_lossy(others);
        let problem = context.problems.error(text.span, format!("`{key}` is not one that STS takes"));
        problem.help(format!("it has {shortest} to {longest} letters, digits and {others}"));
    }
    fits.then(|| str::to_owned(&text.value))
}

/// `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`.
pub(super) fn role_arn(text: &At<Text>, context: &mut Context<'_>) -> Option<String> {
    const FORM: &str = "it looks like arn:aws:iam::123456789012:role/NAME";
    let parts: Vec<&str> = text.value.splitn(6, ':').collect();
    let (why, help) = match parts.as_slice() {
        ["arn", _, "sts", "", _, resource] if resource.starts_with("assumed-role/") => (
            "is that of a session, not of the role",
            "write the role's own: arn:aws:iam::ACCOUNT:role/NAME, from arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION",
        ),
        ["arn", partition, ..] if *partition != "aws" && !partition.starts_with("aws-") => {
            ("has an unknown partition", "it is aws, aws-cn, aws-us-gov or one of the isolated ones")
        }
        ["arn", _, "iam", "", account, resource] => {
            if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
                ("has an account id that is not 12 digits", FORM)
            } else if !resource.strip_prefix("role/").is_some_and(|role| !role.is_empty() && !role.ends_with('/')) {
                ("is not that of a role", FORM)
            } else if !resource.bytes().all(|byte| byte.is_ascii_graphic()) {
                ("has a character that no role has", FORM)
            } else {
                return Some(str::to_owned(&text.value));
            }
        }
        _ => ("is not that of an IAM role", FORM),
    };
    context.problems.error(text.span, format!("this ARN {why}")).help(help);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_name_of_ours_is_one_that_sts_takes() {
        assert_eq!(session_name("iam"), "countersign-iam");
        assert_eq!(session_name("a b/ü"), "countersign-ab");
        assert_eq!(session_name(&"x".repeat(80)).len(), 64);
    }
}
