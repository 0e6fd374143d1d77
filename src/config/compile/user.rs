//! `kind = "cognito-user"`: whose login, through which app client.

use super::auth::{carrier, filled};
use super::sigv4::{self, optional};
use super::url::{self, Query};
use super::{Context, secret};
use crate::auth::spec::{AwsSource, Bearer, CognitoUser, Flow, SecretSource, TokenSource};
use crate::auth::totp;
use crate::config::raw::{RawCognitoUser, RawCredentials, RawFlow, RawSecret};
use crate::config::read::{At, Text};

/// Cognito's limit (API reference of `InitiateAuth`, `UsernameType`).
const LONGEST_NAME: usize = 128;

/// The login, and what a route sends of it.
pub(super) fn compile(raw: &RawCognitoUser, context: &mut Context<'_>) -> (Option<CognitoUser>, Option<Bearer>) {
    let carrier = carrier(&raw.header, &raw.scheme, context);
    let user = user(raw, context);
    let bearer = user.clone().zip(carrier).map(|(user, (header, scheme))| Bearer {
        token: TokenSource::User(user, raw.token.value),
        header,
        scheme,
    });
    (user, bearer)
}

fn user(raw: &RawCognitoUser, context: &mut Context<'_>) -> Option<CognitoUser> {
    let pool = raw.user_pool_id.as_ref().and_then(|text| pool_id(text, context));
    let region = raw.region.as_ref().map(|text| sigv4::region(text, context));
    if let (Some((home, _)), Some(Some(region)), Some(text)) = (&pool, &region, &raw.region)
        && home != region
    {
        let message = format!("this user pool is in {home}, and `region` is {region}");
        context.problems.error(text.span, message).help("leave `region` out, and it is read from `user_pool_id`");
    }
    let client_id = raw.client_id.as_ref().and_then(|text| filled("client_id", text, context));
    let mut find = |key, raw: &Option<At<RawSecret>>| raw.as_ref().map(|raw| secret::find(key, &raw.value, context));
    let client_secret = find("client_secret", &raw.client_secret);
    let password = find("password", &raw.password);
    let totp_seed = find("totp_seed", &raw.totp_seed);
    check_seed(raw, totp_seed.as_ref().and_then(Option::as_ref), context);
    let username = raw.username.as_ref().and_then(|text| username(text, context));
    let flow = flow(raw, context);
    let endpoint = raw.endpoint.as_ref().map(|text| endpoint(text, context));
    let (home, user_pool_id) = pool?;
    Some(CognitoUser {
        region: optional(region)?.unwrap_or(home),
        user_pool_id,
        client_id: client_id?,
        client_secret: optional(client_secret)?,
        flow: flow?,
        username: username?,
        password: password??,
        totp_seed: optional(totp_seed)?,
        endpoint: optional(endpoint)?,
    })
}

/// The region and the whole of `REGION_NAME`.
fn pool_id(text: &At<Text>, context: &mut Context<'_>) -> Option<(String, String)> {
    let id = filled("user_pool_id", text, context)?;
    let looks_right = |(region, name): (&str, &str)| {
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        region.contains('-') && region.bytes().all(lower) && is_alphanumeric(name)
    };
    if let Some((region, _)) = id.split_once('_').filter(|parts| looks_right(*parts)) {
        return Some((region.to_owned(), id));
    }
    let help = if id.starts_with("arn:") {
        "write what stands behind \"userpool/\" in the ARN"
    } else if id.contains(':') {
        "this looks like an identity pool; it belongs in `credentials` of a sigv4 table, and the user pool here"
    } else {
        "it looks like \"eu-west-1_AbCdEfGhI\""
    };
    context.problems.error(text.span, "`user_pool_id` is not the id of a user pool").help(help);
    None
}

fn is_alphanumeric(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn username(text: &At<Text>, context: &mut Context<'_>) -> Option<String> {
    let name = filled("username", text, context)?;
    if name.chars().any(char::is_control) || name.chars().count() > LONGEST_NAME {
        let problem = context.problems.error(text.span, "`username` is not one that a user pool takes");
        problem.help(format!("it has at most {LONGEST_NAME} characters, none of them a control character"));
        return None;
    }
    Some(name)
}

fn check_seed(raw: &RawCognitoUser, seed: Option<&SecretSource>, context: &mut Context<'_>) {
    if let (Some(raw), Some(seed)) = (&raw.totp_seed, seed.and_then(secret::known))
        && !totp::is_seed(&seed)
    {
        let problem = context.problems.error(raw.span, "the secret `totp_seed` is not base32");
        problem.help("it is the key that an authenticator app is given: letters and the digits 2 to 7");
    }
}

fn flow(raw: &RawCognitoUser, context: &mut Context<'_>) -> Option<Flow> {
    let name = match raw.flow.value {
        RawFlow::Srp => "srp",
        RawFlow::Password => "password",
        RawFlow::AdminPassword => {
            return match raw.credentials.as_ref().map(|credentials| (&credentials.value.0, credentials.span)) {
                None => Some(Flow::AdminPassword(AwsSource::Default)),
                Some((RawCredentials::IdentityPool(_), span)) => {
                    let problem = context.problems.error(span, "an identity pool cannot sign the login of a user");
                    problem.help("the credentials need cognito-idp:AdminInitiateAuth, as a role has it");
                    None
                }
                Some((credentials, _)) => sigv4::credentials(credentials, context).map(Flow::AdminPassword),
            };
        }
    };
    if let Some(credentials) = &raw.credentials {
        let message = format!("`credentials` belongs to flow = \"admin-password\", and this is flow = \"{name}\"");
        context.problems.error(credentials.span, message).help("take it out, or change `flow`");
        return None;
    }
    Some(if raw.flow.value == RawFlow::Srp { Flow::Srp } else { Flow::Password })
}

/// A service's endpoint: the path is the protocol's, always "/".
pub(super) fn endpoint(text: &At<Text>, context: &mut Context<'_>) -> Option<String> {
    let url = url::read("endpoint", text, Query::Refused, context)?;
    if !url.path.is_empty() {
        context.problems.error(text.span, "`endpoint` has a path").help("write scheme, host and port alone");
        return None;
    }
    Some(url.to_string())
}
