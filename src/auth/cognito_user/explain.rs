//! What a person does about a login that the pool does not take.

use super::{CognitoUserSource, Secrets};
use crate::auth::error::{FetchError, LoginError, Permanence, printable};
use crate::auth::spec::{CognitoUser, Flow};

/// So many bytes of a secret in an endpoint's words make them unfit to be shown.
const TELLTALE: usize = 6;

impl CognitoUserSource {
    /// Makes a refusal of a login one that says what to do.
    pub(super) fn explain(&self, error: FetchError, secrets: &Secrets) -> FetchError {
        let FetchError::Refused { endpoint, code, message } = error else { return error };
        let CognitoUser { user_pool_id: pool, username, client_id, .. } = &self.user;
        let quoted = quoted(username);
        let (help, permanence) = match code.as_str() {
            "NotAuthorizedException" if message.contains("SecretHash") => {
                ("check `client_secret`: it is not this app client's".to_owned(), Permanence::Permanent)
            }
            "NotAuthorizedException" if message.contains("isabled") => (
                format!("aws cognito-idp admin-enable-user --user-pool-id {pool} --username {quoted}"),
                Permanence::Permanent,
            ),
            // A wrong password, a locked user, a clock that is off: all count, or may.
            "NotAuthorizedException" | "UserLambdaValidationException" => (
                "check `username`, `password` and this machine's clock; each try counts against the user's lockout, so the \
                 next is minutes away"
                    .to_owned(),
                Permanence::Counted,
            ),
            "CodeMismatchException" | "EnableSoftwareTokenMFAException" => (
                "check `totp_seed` and this machine's clock; each try counts against the user's lockout, so the next is \
                 minutes away"
                    .to_owned(),
                Permanence::Counted,
            ),
            // Another program used the code of this half minute.
            "ExpiredCodeException" => ("the next one-time code is tried".to_owned(), Permanence::Passing),
            "PasswordResetRequiredException" => (set_password(pool, username), Permanence::Permanent),
            "UserNotConfirmedException" => (
                format!("aws cognito-idp admin-confirm-sign-up --user-pool-id {pool} --username {quoted}"),
                Permanence::Permanent,
            ),
            "UserNotFoundException" => (format!("pool {pool} has no such user; check `username`"), Permanence::Permanent),
            "InvalidParameterException" => (
                format!("is {} among the ExplicitAuthFlows of app client {client_id}?", self.user.flow.allow()),
                Permanence::Permanent,
            ),
            "ResourceNotFoundException" => (
                format!("check `client_id` ({client_id}), `user_pool_id` ({pool}) and the region"),
                Permanence::Permanent,
            ),
            "AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException" => (
                "the AWS credentials need cognito-idp:AdminInitiateAuth and cognito-idp:AdminRespondToAuthChallenge on the \
                 pool"
                    .to_owned(),
                Permanence::Permanent,
            ),
            _ => (format!("the login was through app client {client_id} of pool {pool}"), Permanence::Permanent),
        };
        let message = if secrets.are_in(&message) { String::new() } else { message };
        let username = username.clone();
        FetchError::Login(Box::new(LoginError::Refused { endpoint, username, code, message, help, permanence }))
    }

    /// A challenge that cannot be met from here, and what a person does about it.
    pub(super) fn unmet(&self, challenge: &str) -> FetchError {
        let CognitoUser { user_pool_id: pool, username, .. } = &self.user;
        let quoted = quoted(username);
        let help = match challenge {
            "NEW_PASSWORD_REQUIRED" => set_password(pool, username),
            "SOFTWARE_TOKEN_MFA" => format!(
                "give the seed of the user's authenticator app, in base32, as `totp_seed`, or take the factor off: aws \
                 cognito-idp admin-set-user-mfa-preference --user-pool-id {pool} --username {quoted} \
                 --software-token-mfa-settings Enabled=false"
            ),
            "DEVICE_SRP_AUTH" | "DEVICE_PASSWORD_VERIFIER" => format!(
                "devices are not remembered here; turn device tracking off: aws cognito-idp update-user-pool \
                 --user-pool-id {pool}, without --device-configuration"
            ),
            "MFA_SETUP" | "SMS_MFA" | "EMAIL_OTP" | "SMS_OTP" | "SELECT_MFA_TYPE" => format!(
                "no program can answer that; give the user an authenticator app and its seed as `totp_seed`, or take the \
                 factor off: aws cognito-idp admin-set-user-mfa-preference --user-pool-id {pool} --username {quoted} \
                 --sms-mfa-settings Enabled=false"
            ),
            "SELECT_CHALLENGE" => format!("it offers no password; set one: {}", set_password(pool, username)),
            _ => {
                "no program can answer that; use a user and an app client that log in with a password alone".to_owned()
            }
        };
        FetchError::Login(Box::new(LoginError::Challenge {
            endpoint: self.service.endpoint().to_owned(),
            username: username.clone(),
            challenge: printable(challenge),
            help,
        }))
    }
}

impl Flow {
    pub(super) fn wire(&self) -> &'static str {
        match self {
            Self::Srp => "USER_SRP_AUTH",
            Self::Password => "USER_PASSWORD_AUTH",
            Self::AdminPassword(_) => "ADMIN_USER_PASSWORD_AUTH",
        }
    }

    /// What an app client's `ExplicitAuthFlows` calls it.
    fn allow(&self) -> &'static str {
        match self {
            Self::Srp => "ALLOW_USER_SRP_AUTH",
            Self::Password => "ALLOW_USER_PASSWORD_AUTH",
            Self::AdminPassword(_) => "ALLOW_ADMIN_USER_PASSWORD_AUTH",
        }
    }
}

impl Secrets {
    /// Whether an endpoint's words repeat a part of a secret that they were sent.
    fn are_in(&self, words: &str) -> bool {
        [Some(&self.password), self.client.as_ref(), self.totp_seed.as_ref()].into_iter().flatten().any(|secret| {
            // The words were made printable before, so the secret must be too.
            let secret = printable(secret.expose());
            secret
                .as_bytes()
                .windows(TELLTALE.min(secret.len()).max(1))
                .any(|part| words.as_bytes().windows(part.len()).any(|window| window == part))
        })
    }
}

fn set_password(pool: &str, username: &str) -> String {
    let username = quoted(username);
    format!(
        "aws cognito-idp admin-set-user-password --user-pool-id {pool} --username {username} --password '…' --permanent"
    )
}

/// As a shell reads it as one word.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
