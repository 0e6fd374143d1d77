//! `credentials = { identity_pool = { … } }`: which identity pool, and who logs in for it.

use super::auth::filled;
use super::role::role_arn;
use super::sigv4::optional;
use super::{Context, user};
use crate::auth::spec::{AwsSource, IdentityPool, Login};
use crate::config::raw::RawIdentityPool;
use crate::config::read::{At, Text, nearest};

/// The pool, with the login that `login` names.
pub(super) fn compile(raw: &RawIdentityPool, context: &mut Context<'_>) -> Option<AwsSource> {
    let id = raw.id.as_ref().and_then(|text| pool_id(text, context));
    let login = raw.login.as_ref().map(|name| login(name, context));
    let role_arn = raw.role_arn.as_ref().map(|text| role_arn(text, context));
    if let (Some(role), None) = (&raw.role_arn, &raw.login) {
        let problem = context.problems.error(role.span, "`role_arn` needs `login` beside it");
        problem.help("only a user who has logged in may choose among roles");
    }
    let endpoint = raw.endpoint.as_ref().map(|text| user::endpoint(text, context));
    let (region, id) = id?;
    let pool = IdentityPool {
        id,
        region,
        login: optional(login)?,
        role_arn: optional(role_arn)?,
        endpoint: optional(endpoint)?,
    };
    Some(AwsSource::IdentityPool(Box::new(pool)))
}

/// The region and the whole of `REGION:UUID`.
fn pool_id(text: &At<Text>, context: &mut Context<'_>) -> Option<(String, String)> {
    let id = filled("id", text, context)?;
    let looks_right = |(region, uuid): (&str, &str)| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        region.contains('-') && region.bytes().all(allowed) && uuid.contains('-') && uuid.bytes().all(allowed)
    };
    if let Some((region, _)) = id.split_once(':').filter(|parts| looks_right(*parts)) {
        return Some((region.to_owned(), id));
    }
    let help = if id.starts_with("arn:") {
        "write what stands behind \"identitypool/\" in the ARN"
    } else if id.contains('_') {
        "this looks like a user pool; it belongs in the cognito-user table that `login` names"
    } else {
        "it looks like \"eu-west-1:0d5f3c1e-7a0b-4f43-9d2e-2f6f0c5b7e11\""
    };
    context.problems.error(text.span, "`id` is not the id of an identity pool").help(help);
    None
}

fn login(name: &At<Text>, context: &mut Context<'_>) -> Option<Login> {
    let Some(logins) = context.logins.clone() else {
        let problem = context.problems.error(name.span, "a login cannot need another login for its own secrets");
        problem.help("read them with the credentials of a role, a profile or keys");
        return None;
    };
    context.borrowed.push(str::to_owned(&name.value));
    match logins.get(&*name.value) {
        Some(Some(user)) => Some(Login { name: (&*name.value).into(), user: user.clone()? }),
        Some(None) => {
            let message = format!("[auth.{}] is not of kind \"cognito-user\"", &*name.value);
            let problem = context.problems.error(name.span, message);
            problem.help("an identity pool takes the ID token of a user's login");
            None
        }
        None => {
            let problem = context.problems.error(name.span, format!("there is no [auth] table called {}", name.value));
            let users = logins.iter().filter(|(_, login)| login.is_some()).map(|(name, _)| name.as_str());
            if let Some(meant) = nearest(&name.value, users) {
                problem.help(format!("did you mean \"{meant}\"?"));
            }
            None
        }
    }
}
