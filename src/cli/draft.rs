//! A config of one route, as flags or answers describe it, and its commented text.
//!
//! Says nothing about whether it is right: the text is checked like any other. Imports its neighbours.

use super::document::{Document, list, quoted, table};

/// One route and its credential.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) upstream: String,
    pub(super) auth: Auth,
    /// Empty for the default ones.
    pub(super) listen: Vec<String>,
    /// `None` for the default one.
    pub(super) admin: Option<String>,
    /// `None` for the default one.
    pub(super) level: Option<&'static str>,
}

/// How the route authorises.
#[derive(Clone, Debug)]
pub(super) enum Auth {
    None,
    SigV4 { region: Option<String>, service: Option<String>, profile: Option<String>, role: Option<Role> },
    ClientCredentials { token_url: String, client_id: String, secret_variable: String, scopes: Vec<String> },
    CognitoUser { user_pool_id: String, client_id: String, username: String, password_variable: String },
}

/// A role to assume.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) arn: String,
    pub(super) external_id: Option<String>,
}

impl Draft {
    /// The environment variable that holds its secret.
    pub(super) fn variable(&self) -> Option<&str> {
        match &self.auth {
            Auth::None | Auth::SigV4 { .. } => None,
            Auth::ClientCredentials { secret_variable, .. } => Some(secret_variable),
            Auth::CognitoUser { password_variable, .. } => Some(password_variable),
        }
    }

    /// Its text.
    pub(super) fn document(&self) -> Document {
        let mut document = Document::default();
        document.say("# config.example.toml has every key; `countersign check` tells what is wrong with this file.");
        if !self.listen.is_empty() {
            document.say("\n[proxy]\n# Where apps call.");
            document.set("--listen", "listen", &list(&self.listen));
        }
        if let Some(admin) = &self.admin {
            document.say("\n[admin]\n# Status, probes and metrics.");
            document.set("", "listen", &quoted(admin));
        }
        if let Some(level) = self.level {
            document.say("\n[log]");
            document.set("", "level", &quoted(level));
        }
        self.auth.write(&mut document);
        document.say("\n# Every request goes there: /orders/42 to the upstream's own path and /orders/42.");
        document.say("[[route]]");
        document.set("", "name", "\"api\"");
        document.set("--upstream", "upstream", &quoted(&self.upstream));
        document.set("", "auth", if matches!(self.auth, Auth::None) { "\"none\"" } else { "\"api\"" });
        document
    }
}

impl Auth {
    fn write(&self, document: &mut Document) {
        match self {
            Self::None => {}
            Self::SigV4 { region, service, profile, role } => {
                document.say("\n# Requests are signed with AWS Signature Version 4.\n[auth.api]");
                document.set("", "kind", "\"sigv4\"");
                if let Some(region) = region {
                    document.set("--region", "region", &quoted(region));
                }
                if let Some(service) = service {
                    document.set("--service", "service", &quoted(service));
                }
                match profile {
                    Some(profile) => {
                        document.say("# A profile of ~/.aws/config or ~/.aws/credentials.");
                        document.set("--profile", "credentials", &table(&[("profile", quoted(profile))]));
                    }
                    None => document.say(
                        "# Found as the AWS SDKs find them: environment, AWS_PROFILE, web identity, container, instance.\n\
                         credentials = \"default\"",
                    ),
                }
                if let Some(Role { arn, external_id }) = role {
                    document.say("# A role to assume with those.");
                    let mut pairs = vec![("arn", quoted(arn))];
                    pairs.extend(external_id.as_ref().map(|id| ("external_id", quoted(id))));
                    document.set("--role-arn", "assume_role", &table(&pairs));
                }
            }
            Self::ClientCredentials { token_url, client_id, secret_variable, scopes } => {
                document.say("\n# The token of a machine client, kept fresh (RFC 6749 4.4).\n[auth.api]");
                document.set("", "kind", "\"client-credentials\"");
                document.set("--token-url", "token_url", &quoted(token_url));
                document.set("--client-id", "client_id", &quoted(client_id));
                document.say("# The name of the environment variable that holds it.");
                document.set("--client-secret-env", "client_secret", &table(&[("env", quoted(secret_variable))]));
                if !scopes.is_empty() {
                    document.set("--scope", "scopes", &list(scopes));
                }
            }
            Self::CognitoUser { user_pool_id, client_id, username, password_variable } => {
                document.say("\n# The login of a user of a Cognito user pool, kept alive.\n[auth.api]");
                document.set("", "kind", "\"cognito-user\"");
                document.set("--user-pool-id", "user_pool_id", &quoted(user_pool_id));
                document.set("--client-id", "client_id", &quoted(client_id));
                document.set("--username", "username", &quoted(username));
                document.say("# The name of the environment variable that holds it.");
                document.set("--password-env", "password", &table(&[("env", quoted(password_variable))]));
                document.say("# REST APIs want the \"id\" token on methods without scopes.\n#token = \"access\"");
            }
        }
    }
}
