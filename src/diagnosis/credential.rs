//! What the refusal of a token endpoint, of Cognito, of STS or of a secret's store means (docs/aws.md C1, D4, D5, E, F).
//!
//! By error codes, which are protocol; by words only where AWS gives one code to several things. Imports nothing of ours.

use super::{Cause, Diagnosis};

/// Who refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// An OAuth2 token endpoint.
    TokenEndpoint,
    /// A Cognito user pool, at a login.
    Login,
    /// A Cognito identity pool that was shown a login.
    IdentityPool,
    /// A Cognito identity pool that was shown none.
    Guests,
    /// STS, asked for a role.
    Sts,
    /// A container's credential endpoint.
    Container,
    /// Secrets Manager or Systems Manager.
    Store,
}

/// What a refusal with this code and these words means.
pub fn refused(service: Service, code: &str, message: &str) -> Diagnosis {
    let cause = match service {
        Service::TokenEndpoint => return token_endpoint(code),
        Service::Login => return login(code, message),
        Service::IdentityPool | Service::Guests => identity_pool(service, code),
        Service::Sts => return sts(code, message),
        Service::Container => Cause::ContainerRefused,
        Service::Store => match code {
            "AccessDeniedException" | "AccessDenied" => Cause::StoreDenied,
            "ResourceNotFoundException" | "ParameterNotFound" => Cause::StoreMissing,
            _ => Cause::StoreRefused,
        },
    };
    Diagnosis::of(cause)
}

fn token_endpoint(code: &str) -> Diagnosis {
    match code {
        "invalid_client" => Diagnosis::of(Cause::ClientRefused),
        "unauthorized_client" => Diagnosis::of(Cause::ClientNotAllowed).or(Cause::ClientRefused),
        "invalid_scope" => Diagnosis::of(Cause::ScopeUnknown).or(Cause::ScopeNotAllowed),
        // Cognito's word for a scope or flow that the client may not use (docs/aws.md C1).
        "invalid_grant" => Diagnosis::of(Cause::ScopeNotAllowed).or(Cause::ClientNotAllowed),
        "unsupported_grant_type" => Diagnosis::of(Cause::GrantUnsupported),
        "invalid_request" => Diagnosis::of(Cause::TokenRequestInvalid),
        code if code.starts_with("status ") => Diagnosis::of(Cause::TokenUrlWrong).or(Cause::ClientRefused),
        _ => Diagnosis::of(Cause::CredentialRefused).or(Cause::TokenUrlWrong),
    }
}

fn login(code: &str, message: &str) -> Diagnosis {
    let has = |words: &str| message.contains(words);
    match code {
        "NotAuthorizedException"
            if has("ecret hash") || has("SecretHash") || has("SECRET_HASH") || has("client secret") =>
        {
            Diagnosis::of(Cause::LoginClientSecret)
        }
        "NotAuthorizedException" if has("isabled") => Diagnosis::of(Cause::UserDisabled),
        "NotAuthorizedException" if has("attempts exceeded") => {
            Diagnosis::of(Cause::UserLocked).or(Cause::PasswordRefused)
        }
        "NotAuthorizedException" => Diagnosis::of(Cause::PasswordRefused).or(Cause::UserLocked),
        "UserLambdaValidationException" | "UnexpectedLambdaException" | "InvalidLambdaResponseException" => {
            Diagnosis::of(Cause::LoginTrigger)
        }
        "CodeMismatchException" | "EnableSoftwareTokenMFAException" => Diagnosis::of(Cause::CodeRefused),
        "ExpiredCodeException" => Diagnosis::of(Cause::CodeUsed),
        "PasswordResetRequiredException" => Diagnosis::of(Cause::PasswordReset),
        "UserNotConfirmedException" => Diagnosis::of(Cause::UserUnconfirmed),
        "UserNotFoundException" => Diagnosis::of(Cause::UserUnknown),
        "InvalidParameterException" => Diagnosis::of(Cause::FlowNotEnabled),
        "ResourceNotFoundException" => Diagnosis::of(Cause::PoolOrClientUnknown),
        "AccessDeniedException" | "UnrecognizedClientException" | "InvalidSignatureException" => {
            Diagnosis::of(Cause::AdminLoginDenied)
        }
        _ => Diagnosis::of(Cause::CredentialRefused),
    }
}

/// What a challenge means that is not met.
pub fn challenged(challenge: &str) -> Diagnosis {
    Diagnosis::of(match challenge {
        "NEW_PASSWORD_REQUIRED" => Cause::NewPassword,
        "SOFTWARE_TOKEN_MFA" => Cause::SeedMissing,
        "DEVICE_SRP_AUTH" | "DEVICE_PASSWORD_VERIFIER" => Cause::DeviceTracking,
        "MFA_SETUP" | "SMS_MFA" | "EMAIL_OTP" | "SMS_OTP" | "SELECT_MFA_TYPE" => Cause::FactorForPeople,
        _ => Cause::ChallengeUnknown,
    })
}

fn identity_pool(service: Service, code: &str) -> Cause {
    match code {
        "NotAuthorizedException" if service == Service::Guests => Cause::GuestsRefused,
        "NotAuthorizedException" | "InvalidParameterException" => Cause::IdentityLoginRefused,
        "InvalidIdentityPoolConfigurationException" => Cause::IdentityPoolRoles,
        "ResourceNotFoundException" => Cause::IdentityPoolUnknown,
        _ => Cause::CredentialRefused,
    }
}

fn sts(code: &str, message: &str) -> Diagnosis {
    match code {
        "AccessDenied" | "AccessDeniedException" => Diagnosis::of(Cause::RoleNotAssumable),
        "ValidationError" if message.contains("uration") => {
            Diagnosis::of(Cause::RoleDuration).or(Cause::RoleRequestInvalid)
        }
        "ValidationError" | "MalformedPolicyDocument" | "PackedPolicyTooLarge" => {
            Diagnosis::of(Cause::RoleRequestInvalid).or(Cause::RoleDuration)
        }
        "RegionDisabledException" => Diagnosis::of(Cause::StsRegionDisabled),
        "InvalidClientTokenId" | "UnrecognizedClientException" => Diagnosis::of(Cause::StsKeysUnknown),
        "ExpiredToken" | "ExpiredTokenException" => Diagnosis::of(Cause::StsKeysExpired),
        "SignatureDoesNotMatch" | "InvalidSignatureException" => Diagnosis::of(Cause::StsSignature),
        "InvalidIdentityToken" | "IDPRejectedClaim" => Diagnosis::of(Cause::WebIdentity),
        _ => Diagnosis::of(Cause::CredentialRefused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_services_has_its_cause() {
        for (service, code, message, expected) in [
            (Service::TokenEndpoint, "invalid_client", "", "client-refused"),
            (Service::TokenEndpoint, "unauthorized_client", "", "client-not-allowed"),
            (Service::TokenEndpoint, "invalid_scope", "", "scope-unknown"),
            (Service::TokenEndpoint, "invalid_grant", "", "scope-not-allowed"),
            (Service::TokenEndpoint, "unsupported_grant_type", "", "grant-unsupported"),
            (Service::TokenEndpoint, "invalid_request", "", "token-request-invalid"),
            (Service::TokenEndpoint, "status 404", "", "token-url-wrong"),
            (Service::TokenEndpoint, "odd", "", "credential-refused"),
            (Service::Login, "NotAuthorizedException", "Incorrect username or password.", "password-refused"),
            (Service::Login, "NotAuthorizedException", "Password attempts exceeded", "user-locked"),
            (Service::Login, "NotAuthorizedException", "User is disabled.", "user-disabled"),
            (Service::Login, "NotAuthorizedException", "Unable to verify secret hash", "login-client-secret"),
            (Service::Login, "UserLambdaValidationException", "", "login-trigger"),
            (Service::Login, "ExpiredCodeException", "", "code-used"),
            (Service::Login, "AccessDeniedException", "", "admin-login-denied"),
            (Service::IdentityPool, "NotAuthorizedException", "", "identity-login-refused"),
            (Service::Guests, "NotAuthorizedException", "", "guests-refused"),
            (Service::IdentityPool, "InvalidIdentityPoolConfigurationException", "", "identity-pool-roles"),
            (Service::IdentityPool, "ResourceNotFoundException", "", "identity-pool-unknown"),
            (Service::Sts, "AccessDenied", "", "role-not-assumable"),
            (Service::Sts, "ValidationError", "1 validation error: DurationSeconds", "role-duration"),
            (Service::Sts, "PackedPolicyTooLarge", "", "role-request-invalid"),
            (Service::Sts, "InvalidIdentityToken", "", "web-identity"),
            (Service::Container, "AccessDenied", "", "container-refused"),
            (Service::Store, "DecryptionFailure", "", "store-refused"),
        ] {
            assert_eq!(refused(service, code, message).first().cause.code(), expected, "{service:?} {code} {message}");
        }
        assert_eq!(challenged("WEB_AUTHN").first().cause, Cause::ChallengeUnknown);
    }
}
