//! `assume_role`: roles that are assumed one after the other, and what STS takes for each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Context;
use super::sigv4::{optional, region};
use super::url::{self, Query};
use crate::auth::spec::AssumeRole;
use crate::config::raw::{RawAssumeRole, RawCredentials, RawRoles};
use crate::config::read::{At, Map, Text};
use crate::units::format_duration;

/// STS's own limits (API reference of `AssumeRole`).
const SHORTEST: Duration = Duration::from_mins(15);
const LONGEST: Duration = Duration::from_hours(12);
/// Of a role that is assumed with the credentials of another ("role chaining" in the IAM User Guide).
const LONGEST_CHAINED: Duration = Duration::from_hours(1);
const MOST_TAGS: usize = 50;
const MOST_POLICIES: usize = 10;
const LONGEST_POLICY: usize = 2048;

/// A role, still without the region of its STS.
pub(super) struct Role {
    arn: String,
    external_id: Option<String>,
    session_name: String,
    duration: Duration,
    tags: BTreeMap<String, String>,
    policy: Option<String>,
    policy_arns: Vec<String>,
    region: Option<String>,
    endpoint: Option<String>,
}

impl Role {
    /// The role, where STS is that of `region` unless it says otherwise.
    pub(super) fn in_region(&self, region: &str) -> AssumeRole {
        AssumeRole {
            arn: self.arn.clone(),
            external_id: self.external_id.clone(),
            session_name: self.session_name.clone(),
            duration: self.duration,
            tags: self.tags.clone(),
            policy: self.policy.clone(),
            policy_arns: self.policy_arns.clone(),
            region: self.region.clone().unwrap_or_else(|| region.to_owned()),
            endpoint: self.endpoint.clone(),
        }
    }
}

/// The roles of one table, called `name`, that are assumed with `credentials`.
pub(super) fn compile(
    raw: Option<&At<RawRoles>>,
    name: &str,
    credentials: &RawCredentials,
    context: &mut Context<'_>,
) -> Option<Vec<Role>> {
    let Some(raw) = raw else { return Some(Vec::new()) };
    if raw.value.0.is_empty() {
        let problem = context.problems.error(raw.span, "`assume_role` is an empty array");
        problem.help("leave it out to sign with `credentials` themselves");
        return None;
    }
    let mut roles = Vec::new();
    for (index, role) in raw.value.0.iter().enumerate() {
        check_chaining(&role.value, index, credentials, context);
        roles.push(assume_role(&role.value, name, context));
    }
    roles.into_iter().collect()
}

/// STS refuses a longer session than 1 h to whoever is a role already.
fn check_chaining(raw: &RawAssumeRole, index: usize, credentials: &RawCredentials, context: &mut Context<'_>) {
    const HELP: &str = "STS gives 1h at most to a caller that is itself a role; leave `duration` out";
    let At { value: duration, span } = raw.duration;
    if duration <= LONGEST_CHAINED || duration > LONGEST {
        return;
    }
    let duration = format_duration(duration);
    if index > 0 {
        let message = format!("`duration` of {duration} for a role that is assumed with another role");
        context.problems.error(span, message).help(HELP);
        return;
    }
    let caller = match credentials {
        RawCredentials::Container => "the container",
        RawCredentials::WebIdentity => "the web identity",
        RawCredentials::IdentityPool(_) => "an identity pool",
        // The chain may end at keys of a user; an instance's role does not count as one (IAM User Guide).
        RawCredentials::Default
        | RawCredentials::Environment
        | RawCredentials::Instance
        | RawCredentials::Profile(_)
        | RawCredentials::Static(_) => return,
    };
    let message = format!("`duration` of {duration} for a role that is assumed with the role of {caller}");
    context.problems.error(span, message).help(HELP);
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
    let tags = tags(&raw.tags, context);
    let policy = raw.policy.as_ref().map(|text| policy(text, context));
    let policy_arns = policy_arns(&raw.policy_arns, context);
    let region = raw.region.as_ref().map(|text| region(text, context));
    let endpoint = raw.endpoint.as_ref().map(|text| url::read("endpoint", text, Query::Refused, context));
    Some(Role {
        arn: arn?,
        external_id: optional(external_id)?,
        session_name: session_name?,
        duration,
        tags,
        policy: optional(policy)?,
        policy_arns,
        region: optional(region)?,
        endpoint: optional(endpoint)?.map(|url| url.to_string()),
    })
}

/// STS: 50 tags, keys of 128 characters, values of 256.
fn tags(raw: &At<Map<Text>>, context: &mut Context<'_>) -> BTreeMap<String, String> {
    if raw.value.len() > MOST_TAGS {
        context.problems.error(raw.span, format!("a session has {MOST_TAGS} tags at most"));
    }
    for (key, value) in &raw.value {
        let length = key.value.chars().count();
        if length == 0 || length > 128 || key.value.to_ascii_lowercase().starts_with("aws:") {
            let problem = context.problems.error(key.span, "this is not the key of a session tag");
            problem.help("it has 1 to 128 characters and does not begin with \"aws:\"");
        }
        if value.value.chars().count() > 256 {
            context.problems.error(value.span, "the value of a session tag has 256 characters at most");
        }
    }
    raw.value.iter().map(|(key, value)| (key.value.clone(), str::to_owned(&value.value))).collect()
}

fn policy(text: &At<Text>, context: &mut Context<'_>) -> Option<String> {
    let object: Result<serde_json::Map<String, serde_json::Value>, _> = serde_json::from_str(&text.value);
    let problem = match object {
        Ok(object) if !object.contains_key("Statement") => "it has no \"Statement\"".to_owned(),
        Ok(_) if text.value.len() > LONGEST_POLICY => format!("it is longer than {LONGEST_POLICY} characters"),
        Ok(_) => return Some(str::to_owned(&text.value)),
        Err(error) => format!("it is not a JSON object (line {}, column {})", error.line(), error.column()),
    };
    let problem = context.problems.error(text.span, format!("`policy` is not a session policy: {problem}"));
    problem.help("write an IAM policy in JSON, in three single quotes on both sides");
    None
}

fn policy_arns(raw: &At<Vec<At<Text>>>, context: &mut Context<'_>) -> Vec<String> {
    if raw.value.len() > MOST_POLICIES {
        context.problems.error(raw.span, format!("a session has {MOST_POLICIES} managed policies at most"));
    }
    for text in &raw.value {
        let parts: Vec<&str> = text.value.splitn(6, ':').collect();
        if !matches!(parts.as_slice(), ["arn", _, "iam", "", _, resource] if resource.starts_with("policy/")) {
            let problem = context.problems.error(text.span, "this is not the ARN of a managed policy");
            problem.help("it looks like arn:aws:iam::123456789012:policy/NAME or arn:aws:iam::aws:policy/NAME");
        }
    }
    raw.value.iter().map(|text| str::to_owned(&text.value)).collect()
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
