//! What an `[auth.*]` table means once it is known to be right.
//!
//! Plain data. Two specs with equal credential parts share one credential: [`ClientCredentials`], [`CognitoUser`] and
//! [`AwsCredentials`] are compared whole, never by client id alone. Imports `secret`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::secret::Secret;

/// One way to authorise requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The name of its `[auth.*]` table.
    pub name: Arc<str>,
    /// What is added to a request.
    pub kind: Kind,
}

/// How much of a request an authorisation depends on, and so what must be settled before it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// `auth = "none"`: nothing is added, and what the caller says of itself passes.
    Nothing,
    /// A token, whatever the request.
    Token,
    /// A signature over method, target and fields, and perhaps the body.
    Signature(PayloadSigning),
}

impl Spec {
    /// What the authorisation depends on.
    pub fn coverage(&self) -> Coverage {
        match &self.kind {
            Kind::Bearer(_) => Coverage::Token,
            Kind::SigV4(sigv4) => Coverage::Signature(sigv4.payload),
        }
    }
}

/// What is added to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A token in a header field.
    Bearer(Bearer),
    /// An AWS Signature Version 4.
    SigV4(SigV4),
}

/// A token in a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Where the token comes from.
    pub token: TokenSource,
    /// The field that carries it.
    pub header: HeaderName,
    /// The word before it; empty sends the raw token.
    pub scheme: String,
}

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// An OAuth2 client.
    Client(ClientCredentials),
    /// The login of a user, and which of its tokens.
    User(CognitoUser, UserToken),
}

/// An OAuth2 client with a secret of its own (RFC 6749 4.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCredentials {
    /// The token endpoint, `https://` or loopback.
    pub token_url: String,
    /// Client identifier.
    pub client_id: String,
    /// Client secret.
    pub client_secret: SecretSource,
    /// How the client shows who it is.
    pub client_auth: ClientAuth,
    /// Scopes that are asked for; none means all that the client may have.
    pub scopes: Vec<String>,
    /// Further form fields, such as `aws_client_metadata` or `audience`.
    pub params: BTreeMap<String, String>,
}

/// How a client shows who it is (RFC 6749 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// `client_secret_basic`: an Authorization field.
    Basic,
    /// `client_secret_post`: form fields.
    Body,
}

/// A user of a Cognito user pool, who logs in with a password.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CognitoUser {
    /// Region of the pool.
    pub region: String,
    /// The pool, `REGION_NAME`.
    pub user_pool_id: String,
    /// The app client that the user logs in through.
    pub client_id: String,
    /// The app client's secret, if it has one.
    pub client_secret: Option<SecretSource>,
    /// How the password is shown.
    pub flow: Flow,
    /// Name, or an alias that the pool takes.
    pub username: String,
    /// Password.
    pub password: SecretSource,
    /// Seed of the authenticator app, in base32.
    pub totp_seed: Option<SecretSource>,
    /// Another endpoint, for VPC endpoints and tests.
    pub endpoint: Option<String>,
}

/// How a password is shown to a user pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// `USER_SRP_AUTH`: the password stays here.
    Srp,
    /// `USER_PASSWORD_AUTH`: it is sent.
    Password,
    /// `ADMIN_USER_PASSWORD_AUTH`: it is sent, in calls that are signed with these credentials.
    AdminPassword(AwsSource),
}

/// Which token of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UserToken {
    /// The access token: scopes, and what HTTP APIs usually want.
    Access,
    /// The ID token: what REST APIs want on methods without scopes.
    Id,
}

/// An AWS Signature Version 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigV4 {
    /// Region of the signing scope.
    pub region: String,
    /// Service of the signing scope, `execute-api` for API Gateway.
    pub service: String,
    /// Whose signature it is.
    pub credentials: AwsCredentials,
    /// Whether the body is hashed.
    pub payload: PayloadSigning,
}

/// Whether the body is part of the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadSigning {
    /// The body is read and hashed before anything is sent: what API Gateway wants.
    Signed,
    /// `x-amz-content-sha256: UNSIGNED-PAYLOAD`, and the body streams: VPC Lattice.
    Unsigned,
}

/// Where a secret comes from. All but `Fixed` are read each time, so that a rotated one takes effect without a restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// What the environment or the config itself gave at start.
    Fixed(Secret),
    /// The content of this file, without the newline at its end.
    File(PathBuf),
    /// A secret that AWS keeps.
    Stored(Box<StoredSecret>),
}

/// A secret that AWS keeps, and whose credentials may read it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoredSecret {
    /// Which one.
    pub entry: StoreEntry,
    /// Region of the store.
    pub region: String,
    /// Who reads it.
    pub credentials: AwsCredentials,
    /// Another endpoint, for VPC endpoints and tests.
    pub endpoint: Option<String>,
}

/// Which secret of which store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoreEntry {
    /// Secrets Manager: name or ARN, and the key where the secret is a JSON object.
    SecretsManager {
        /// Name or ARN.
        id: String,
        /// Member of the JSON object; `None` takes the whole text.
        key: Option<String>,
    },
    /// A parameter of Systems Manager, by name or ARN.
    Parameter(String),
}

/// A field of a request whose value is a secret that can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretField {
    /// What it is called in logs and metrics.
    pub name: Arc<str>,
    /// Its value.
    pub secret: SecretSource,
}

/// What the environment says about AWS credentials: the part that `aws-config` does not read for us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsEnvironment {
    /// `~/.aws/config`, `~/.aws/credentials` or what the environment names instead, and the web identity token: a change
    /// of one is a reason to look again.
    pub files: Vec<PathBuf>,
    /// The container's credential endpoint.
    pub container: ContainerEnvironment,
    /// `AWS_PROFILE`.
    pub profile: Option<String>,
    /// `AWS_ENDPOINT_URL_STS`.
    pub sts_endpoint: Option<String>,
}

/// Where ECS and EKS say that the container's credentials are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerEnvironment {
    /// `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`; it is itself a key to the credentials.
    pub relative_uri: Option<Secret>,
    /// `AWS_CONTAINER_CREDENTIALS_FULL_URI`; so is this.
    pub full_uri: Option<Secret>,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN`.
    pub token: Option<Secret>,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`; wins over the token.
    pub token_file: Option<PathBuf>,
}

/// Where AWS credentials come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AwsCredentials {
    /// The credentials to begin with.
    pub source: AwsSource,
    /// The roles that are assumed one after the other, the first with `source`; often none.
    pub roles: Vec<AssumeRole>,
}

/// The credentials to begin with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AwsSource {
    /// The SDKs' chain: environment, profile, web identity, ECS or EKS container, EC2 instance.
    Default,
    /// `AWS_ACCESS_KEY_ID` and its companions.
    Environment,
    /// The role of the ECS task or EKS pod.
    Container,
    /// The role of the EC2 instance.
    Instance,
    /// The role that a token file stands for (IRSA).
    WebIdentity,
    /// A profile of `~/.aws/config` and `~/.aws/credentials`.
    Profile(String),
    /// Keys given in the config.
    Static {
        /// Access key id.
        access_key_id: SecretSource,
        /// Secret access key.
        secret_access_key: SecretSource,
        /// Session token, of temporary keys.
        session_token: Option<SecretSource>,
    },
    /// An identity of a Cognito identity pool.
    IdentityPool(Box<IdentityPool>),
}

/// An identity of a Cognito identity pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdentityPool {
    /// The pool, `REGION:UUID`.
    pub id: String,
    /// Region of the pool: the part of its id before the colon.
    pub region: String,
    /// Who logs in for it; without, the identity is an unauthenticated one.
    pub login: Option<Login>,
    /// The role, where a login may choose among several.
    pub role_arn: Option<String>,
    /// Another endpoint, for VPC endpoints and tests.
    pub endpoint: Option<String>,
}

/// A login that stands in an `[auth.*]` table of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Login {
    /// The name of the table.
    pub name: Arc<str>,
    /// Whose login.
    pub user: CognitoUser,
}

/// An STS `AssumeRole` call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AssumeRole {
    /// ARN of the role.
    pub arn: String,
    /// What the role's trust policy may ask for.
    pub external_id: Option<String>,
    /// What CloudTrail shows.
    pub session_name: String,
    /// Life of the credentials, 15 min to 12 h; 1 h at most when the caller is itself a role.
    pub duration: Duration,
    /// Session tags; the caller needs `sts:TagSession`.
    pub tags: BTreeMap<String, String>,
    /// A policy in JSON that the session is narrowed by.
    pub policy: Option<String>,
    /// ARNs of managed policies that the session is narrowed by.
    pub policy_arns: Vec<String>,
    /// Region whose STS is called.
    pub region: String,
    /// Another STS endpoint, for VPC endpoints and tests.
    pub endpoint: Option<String>,
}
