//! The config file as written: one flat struct for each table, every key declared once.
//!
//! Nothing is resolved or compared here; that is [`compile`](super::compile). Imports the enums that keys fill.

mod forms;
mod walk;

use std::net::SocketAddr;
use std::time::Duration;

use super::read::{At, FromToml, Map, Reader, Table, Text, Value, choice, given, needed, slot, table, take};
pub use super::read::{Key, Type};
use crate::auth::spec::{ClientAuth, PayloadSigning, UserToken};
use crate::proxy::elsewhere::Unmatched;
use crate::proxy::guard::Forwarding;
use crate::route::Cookies;
use crate::secret::Secret;
use crate::telemetry::log::{Format, Level};
use crate::telemetry::traces::sampling::Share;
use crate::tls::Http2;
use crate::units::ByteSize;
pub(super) use walk::read;

/// A table of the config and its keys.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// As in a file: `[proxy]`.
    pub header: &'static str,
    /// The `kind` that these keys belong to; it is then a required key itself, in front of them.
    pub kind: Option<&'static str>,
    /// Its keys, in the order of the reference.
    pub keys: &'static [Key],
}

/// All tables of the config.
pub const SECTIONS: &[Section] = &[
    Section { header: "[proxy]", kind: None, keys: RawProxy::KEYS },
    Section { header: "[admin]", kind: None, keys: RawAdmin::KEYS },
    Section { header: "[log]", kind: None, keys: RawLog::KEYS },
    Section { header: "[traces]", kind: None, keys: RawTraces::KEYS },
    Section { header: "[upstream]", kind: None, keys: RawUpstream::KEYS },
    Section { header: "[auth.NAME]", kind: Some("client-credentials"), keys: RawClientCredentials::KEYS },
    Section { header: "[auth.NAME]", kind: Some("cognito-user"), keys: RawCognitoUser::KEYS },
    Section { header: "[auth.NAME]", kind: Some("sigv4"), keys: RawSigV4::KEYS },
    Section { header: "[token_cache]", kind: None, keys: RawTokenCache::KEYS },
    Section { header: "[[route]]", kind: None, keys: RawRoute::KEYS },
    Section { header: "[[route]]", kind: None, keys: RawUpstream::KEYS },
];

table! {
    /// Who may call, and how much.
    struct RawProxy {
        /// Addresses to listen on: IP address and port, or "unix:" and the path of a socket.
        listen: Vec<At<RawListen>> = r#"["127.0.0.1:8080", "[::1]:8080"]"#;
        /// Permission bits of Unix sockets, in octal.
        socket_mode: Text = r#""0600""#;
        /// Ids of the users who may call through Unix sockets; countersign's own and root's, if left out.
        socket_users: Vec<At<UserId>>;
        /// The certificate that the TCP listeners show: they speak TLS then, HTTP/2 and HTTP/1.1.
        tls: RawTls;
        /// Allows `listen` addresses that are not loopback: whoever reaches one uses the credentials.
        expose: bool = "false";
        /// Host names that callers may use besides loopback names and the routes' own.
        allowed_hosts: Vec<At<Text>> = "[]";
        /// Web origins whose pages may call, each as a browser writes it; pages of all others are refused.
        allowed_origins: Vec<At<Text>> = "[]";
        /// What callers must send as `x-countersign-token`, or as user name or password of the proxy's URL.
        caller_token: RawSecret;
        /// X-Forwarded-*, Forwarded, Via, X-Real-IP, X-Original-URL and X-Rewrite-URL of a proxy in front: "strip" takes them out, "pass" sends them on, "refuse" refuses the request.
        forwarded: Forwarding = r#""strip""#;
        /// Requests of programs that take us for their HTTP proxy (`HTTP_PROXY`), where no route leads.
        forward: RawForward = "{}";
        /// Threads that serve connections, each its own; left out, one for each CPU that it may use, and 4 at most.
        workers: usize;
        /// Connections at the same time, over all listeners.
        max_connections: usize = "1024";
        /// Requests at the same time, over all routes.
        max_in_flight: usize = "512";
        /// Largest request head; larger gets 431. API Gateway itself takes 10,240 bytes.
        max_head: ByteSize = r#""32KiB""#;
        /// Fields of a request head; more get 431.
        max_fields: usize = "100";
        /// Longest path with its query, or URL where a program takes us for its proxy; longer gets 414.
        max_target: ByteSize = r#""8KiB""#;
        /// From the first byte of a request head to its end.
        header_timeout: Duration = r#""10s""#;
        /// How long a connection may stay open without a request.
        idle_timeout: Duration = r#""600s""#;
        /// How long requests may take to end once a stop was asked for.
        drain_timeout: Duration = r#""25s""#;
        /// All bodies held for signing, together.
        buffer_budget: ByteSize = r#""64MiB""#;
        /// How long a body waits for its share of that.
        buffer_wait: Duration = r#""10s""#;
        /// What is read ahead of a client, and kept of an answer that it does not take yet; no less than `max_head`.
        copy_buffer: ByteSize = r#""64KiB""#;
        /// Longest pause after a connection could not be accepted, as without descriptors; the first is 10 ms.
        accept_pause: Duration = r#""1s""#;
        /// Largest answer of a token endpoint, of AWS to a call of ours, or of a metadata endpoint.
        max_token_answer: ByteSize = r#""64KiB""#;
    }
}

table! {
    /// `[proxy.forward]`: programs that take us for their HTTP proxy.
    struct RawForward {
        /// URLs in plain HTTP: "refuse", or "pass" to pass them on without a credential.
        unmatched: Unmatched = r#""refuse""#;
        /// CONNECT: "refuse"; "tunnel" to carry bytes, unseen and without a credential, to `connect_hosts`; "intercept" to answer in the place of hosts that routes lead to and to carry the rest.
        connect: RawConnect = r#""refuse""#;
        /// Where tunnels may lead: names with their ports, or "*." and all names under one.
        connect_hosts: Vec<At<Text>> = "[]";
        /// For "intercept": PEM file with the certificate of the developer's own authority, as `countersign ca init` makes it.
        ca_cert: Text;
        /// For "intercept": PEM file with its private key, which nobody else can read.
        ca_key: Text;
    }
}

table! {
    /// A certificate for callers. Its files are read again when they change.
    struct RawTls {
        /// PEM file with the certificate chain, leaf first.
        cert: Text => required;
        /// PEM file with its private key.
        key: Text => required;
    }
}

table! {
    /// Status, probes and metrics.
    struct RawAdmin {
        /// Address of /livez, /readyz, /startupz and /metrics; loopback, unless [proxy] expose is true.
        listen: SocketAddr = r#""127.0.0.1:9901""#;
        /// Address of the probes alone, for a kubelet that comes from outside the pod; any address.
        health_listen: SocketAddr;
        /// What a POST to /quitquitquit must show to stop countersign; without it there is no such page.
        quit_token: RawSecret;
        /// Connections at the same time to `listen`, and as many to `health_listen`, beside those of [proxy].
        max_connections: usize = "32";
    }
}

table! {
    /// Log lines on standard error.
    struct RawLog {
        /// "text" for people, "json" for machines.
        format: Format = r#""text""#;
        /// Least level: off, error, warn, info, debug or trace; also per target, as in "info,hyper=warn".
        level: Level = r#""info""#;
        /// Whether each request leaves a line.
        access: bool = "true";
    }
}

table! {
    /// A span for each request, for an OpenTelemetry collector. Off without an endpoint.
    struct RawTraces {
        /// The collector's URL for spans, OTLP over HTTP in protobuf, as in `http://localhost:4318/v1/traces`; that of `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT`, if left out.
        endpoint: Text;
        /// Headers that the collector wants to see: strings or secrets, over https:// or to loopback alone; beside those of `OTEL_EXPORTER_OTLP_HEADERS`.
        headers: Map<RawFieldValue> = "{}";
        /// The service that the spans are of; that of `OTEL_SERVICE_NAME` or "countersign", if left out.
        service_name: Text;
        /// Further attributes of the resource, beside those of `OTEL_RESOURCE_ATTRIBUTES`.
        resource: Map<Text> = "{}";
        /// Part of the traces that begin here, from 0 to 1; a caller's trace is recorded if the caller records it. As `OTEL_TRACES_SAMPLER` says or all, if left out.
        sample_ratio: Share;
    }
}

table! {
    /// How upstreams are reached. In `[upstream]` for all routes, in a `[[route]]` for that one.
    struct RawUpstream {
        /// Name lookup.
        dns_timeout: Duration = r#""2s""#;
        /// TCP; all addresses of the name together.
        connect_timeout: Duration = r#""2s""#;
        /// TLS handshake.
        tls_timeout: Duration = r#""3s""#;
        /// Until the response head. API Gateway itself gives up after 29 s (REST, unless raised) or 30 s (HTTP).
        response_timeout: Duration = r#""35s""#;
        /// Between two pieces of an answer's body. API Gateway's own limit for streams is 5 min.
        body_idle_timeout: Duration = r#""330s""#;
        /// Between two pieces of a request's body, as the client sends them.
        upload_idle_timeout: Duration = r#""30s""#;
        /// How long a request waits for a credential that is being fetched.
        credential_timeout: Duration = r#""5s""#;
        /// Between two pings on an HTTP/2 connection in use.
        ping_interval: Duration = r#""20s""#;
        /// How long the answer to a ping may take; without it the connection is over.
        ping_timeout: Duration = r#""5s""#;
        /// How long an unused connection is kept.
        pool_idle_timeout: Duration = r#""20s""#;
        /// How long a connection is used for new requests, so that DNS changes are noticed.
        max_connection_age: Duration = r#""300s""#;
        /// PEM file with roots that are trusted besides the system's.
        ca_file: Text;
        /// PEM file with the client certificate for mutual TLS, leaf first; needs `client_key`.
        client_cert: Text;
        /// PEM file with the private key of `client_cert`.
        client_key: Text;
        /// "auto" offers HTTP/2 and lets the server choose; "never" speaks HTTP/1.1.
        http2: Http2 = r#""auto""#;
        /// "env" follows `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, "none" goes straight, anything else is the URL of an HTTP proxy, or a secret that holds one.
        proxy: RawWay = r#""env""#;
        /// Largest body that is held for signing; larger gets 413. API Gateway's own limit is 10 MB.
        max_body: ByteSize = r#""10MiB""#;
        /// Largest streamed body that is kept, so that it can be sent once more.
        replay_buffer: ByteSize = r#""64KiB""#;
        /// Largest head of an answer, larger is a 502; and what is read of an answer at once.
        max_response_head: ByteSize = r#""64KiB""#;
        /// Fields of an answer's head; more are a 502.
        max_response_fields: usize = "100";
        /// Interim answers (1xx) to one request; more are a 502.
        max_interim: usize = "32";
    }
}

table! {
    /// `kind = "client-credentials"`: an OAuth2 client with a secret of its own (RFC 6749 4.4).
    struct RawClientCredentials {
        /// The token endpoint: https://, or http:// on loopback.
        token_url: Text => required;
        /// Client identifier.
        client_id: Text => required;
        /// Client secret.
        client_secret: RawSecret => required;
        /// How the client shows who it is: "basic" (Authorization header) or "body" (form fields).
        client_auth: ClientAuth = r#""basic""#;
        /// Scopes to ask for; none means all that the client may have.
        scopes: Vec<At<Text>> = "[]";
        /// The header that carries the token.
        header: Text = r#""authorization""#;
        /// The word in front of the token; "" sends the raw token.
        scheme: Text = r#""Bearer""#;
        /// Further form fields of the token request, such as `audience` or `aws_client_metadata`.
        params: Map<Text> = "{}";
    }
}

table! {
    /// `kind = "cognito-user"`: a user of a Cognito user pool, who logs in with a password.
    struct RawCognitoUser {
        /// Region of the user pool; the part of `user_pool_id` before the "_", if left out.
        region: Text;
        /// The user pool, as in "eu-west-1_AbCdEfGhI".
        user_pool_id: Text => required;
        /// The app client that the user logs in through.
        client_id: Text => required;
        /// The app client's secret, if it was made with one.
        client_secret: RawSecret;
        /// How the password is shown: "srp" (it stays here), "password" (sent over TLS) or "admin-password" (in signed calls).
        flow: RawFlow = r#""srp""#;
        /// The user's name, or an alias that the pool takes.
        username: Text => required;
        /// The user's password, a permanent one.
        password: RawSecret => required;
        /// Seed of the user's authenticator app, in base32; answers `SOFTWARE_TOKEN_MFA`.
        totp_seed: RawSecret;
        /// Which of the login's tokens is sent: "access" or "id".
        token: UserToken = r#""access""#;
        /// Whose signature the calls of flow = "admin-password" carry; the SDKs' default chain, if left out.
        credentials: RawSigner;
        /// The header that carries the token.
        header: Text = r#""authorization""#;
        /// The word in front of the token; "" sends the raw token.
        scheme: Text = r#""Bearer""#;
        /// Another Cognito endpoint, for VPC endpoints and tests: https://, or http:// on loopback.
        endpoint: Text;
    }
}

table! {
    /// `kind = "sigv4"`: an AWS Signature Version 4.
    struct RawSigV4 {
        /// Region of the signing scope; read from the upstream's name where that is an execute-api host, else that of
        /// `AWS_REGION` or the profile, where `credentials` is "default" or a profile.
        region: Text;
        /// Service of the signing scope.
        service: Text = r#""execute-api""#;
        /// Whose signature it is: "default" (the SDKs' chain) or one of its links, `{ profile = "…" }`, `{ static = { … } }` or `{ identity_pool = { … } }`.
        credentials: RawCredentials = r#""default""#;
        /// A role to assume with those credentials, or an array of roles: each is assumed with the one before it.
        assume_role: RawRoles;
        /// "signed" reads and hashes the body; "unsigned" streams it, where the service takes that (VPC Lattice).
        payload: PayloadSigning = r#""signed""#;
    }
}

table! {
    /// An STS `AssumeRole` call.
    struct RawAssumeRole {
        /// ARN of the role.
        arn: Text => required;
        /// What the role's trust policy asks for.
        external_id: Text;
        /// What CloudTrail shows; "countersign-" and the name of the [auth] table, if left out.
        session_name: Text;
        /// Life of the credentials, 15m to 12h; at most 1h where the caller is itself a role.
        duration: Duration = r#""1h""#;
        /// Session tags; the caller needs `sts:TagSession`.
        tags: Map<Text> = "{}";
        /// A session policy in JSON: what the session may do at most.
        policy: Text;
        /// ARNs of managed policies: what the session may do at most.
        policy_arns: Vec<At<Text>> = "[]";
        /// Region whose STS is called; that of the signature, if left out.
        region: Text;
        /// Another STS endpoint, for VPC endpoints and tests: https://, or http:// on loopback.
        endpoint: Text;
    }
}

table! {
    /// `{ secretsmanager = … }` or `{ ssm = … }`: a secret that AWS keeps.
    struct RawStored {
        /// Name or ARN of a secret in Secrets Manager.
        secretsmanager: Text;
        /// Name or ARN of a parameter in Systems Manager.
        ssm: Text;
        /// Member of the secret, where it is a JSON object.
        key: Text;
        /// Region of the store; that of the ARN or of `AWS_REGION`, if left out.
        region: Text;
        /// Who reads it, in the forms of a sigv4 table.
        credentials: RawCredentials = r#""default""#;
        /// Roles to assume for it.
        assume_role: RawRoles;
        /// Another endpoint of the store, for VPC endpoints and tests: https://, or http:// on loopback.
        endpoint: Text;
    }
}

table! {
    /// `credentials = { static = { … } }`: keys given in the config.
    struct RawStatic {
        /// Access key id.
        access_key_id: RawSecret => required;
        /// Secret access key.
        secret_access_key: RawSecret => required;
        /// Session token, of temporary keys.
        session_token: RawSecret;
    }
}

table! {
    /// `credentials = { identity_pool = { … } }`: an identity of a Cognito identity pool.
    struct RawIdentityPool {
        /// The identity pool, as in "eu-west-1:0d5f3c1e-7a0b-4f43-9d2e-2f6f0c5b7e11".
        id: Text => required;
        /// Name of a cognito-user [auth] table that logs in for it; an unauthenticated identity, if left out.
        login: Text;
        /// The role to ask for, where the user may have several; needs `login`.
        role_arn: Text;
        /// Another endpoint, for VPC endpoints and tests: https://, or http:// on loopback.
        endpoint: Text;
    }
}

table! {
    /// A Redis or Valkey through which a fleet shares the tokens of its client-credentials tables, encrypted.
    struct RawTokenCache {
        /// rediss://HOST:PORT, or redis:// on loopback; `/N` behind it selects a database. Without it nothing is shared.
        url: Text;
        /// The user, where the server has an ACL; the default user, if left out.
        username: RawFieldValue;
        /// And its password, or the server's.
        password: RawSecret;
        /// PEM file with roots that are trusted besides the system's.
        ca_file: Text;
        /// Whether the server is a node of a cluster, which sends on to others.
        cluster: bool = "false";
        /// In front of all keys; whoever has the same credentials and another prefix shares nothing.
        prefix: Text = r#""countersign""#;
        /// What all calls for one token may take together; after it the sidecar fetches by itself.
        timeout: Duration = r#""250ms""#;
    }
}

table! {
    /// Which requests go where, and how they are authorised.
    struct RawRoute {
        /// Unique name, for logs and metrics; derived from `host` and `path`, if left out.
        name: Text;
        /// A listener of its own, for an app that cannot send a prefix.
        listen: SocketAddr;
        /// The Host name this route answers to, without a port; any allowed one, if left out.
        host: Text;
        /// Prefix of whole segments; the longest one wins.
        path: Text = r#""/""#;
        /// The methods this route takes; GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS, if left out.
        methods: Vec<At<Text>>;
        /// Where requests go: https://, or http:// on loopback.
        upstream: Text => required;
        /// Whether `path` is taken off before the upstream's own path is put in front.
        strip_path: bool = "false";
        /// Name of an [auth] table, or "none"; there is no default, so that nothing is sent unsigned by mistake.
        auth: Text => required;
        /// Host and port to dial instead of the upstream's; Host and signature keep the upstream's name.
        connect_to: Text;
        /// Name that the certificate must carry, where it differs from the upstream's host.
        server_name: Text;
        /// Whether `%2F` may stand in a request's path.
        allow_encoded_slash: bool = "false";
        /// Whether a WebSocket may begin here; otherwise `Upgrade` is taken out of requests.
        websocket: bool = "false";
        /// Whether a `Location` in the upstream's answer that leads under this route is rewritten to lead here.
        rewrite_location: bool = "true";
        /// "pass" leaves the upstream's cookies as they are; "local" makes them good for callers: no Domain, no Secure, Path of this route.
        cookies: Cookies = r#""pass""#;
        /// Requests of this route at the same time; if left out, half of what [proxy] takes, together with all such routes to the same upstream.
        max_in_flight: usize;
        /// Whether a POST or PATCH that carries an Idempotency-Key is sent again as a PUT is, when its connection dies.
        retry_idempotency_key: bool = "false";
        /// Changes to the request's headers on the way out.
        request_headers: RawRequestHeaders = "{}";
    }
}

table! {
    /// Changes to the request's headers on the way out.
    struct RawRequestHeaders {
        /// Headers set to exactly this, whatever the client sent: a string or a secret.
        set: Map<RawFieldValue> = "{}";
        /// Headers removed.
        remove: Vec<At<Text>> = "[]";
    }
}

choice!(Format { "text" => Format::Text, "json" => Format::Json });
choice!(Http2 { "auto" => Http2::Auto, "never" => Http2::Never });
choice!(Forwarding { "strip" => Forwarding::Strip, "pass" => Forwarding::Pass, "refuse" => Forwarding::Refuse });
choice!(Unmatched { "refuse" => Unmatched::Refuse, "pass" => Unmatched::Pass });
choice!(RawConnect { "refuse" => RawConnect::Refuse, "tunnel" => RawConnect::Tunnel, "intercept" => RawConnect::Intercept });
choice!(Cookies { "pass" => Cookies::Pass, "local" => Cookies::Local });
choice!(ClientAuth { "basic" => ClientAuth::Basic, "body" => ClientAuth::Body });
choice!(RawFlow { "srp" => RawFlow::Srp, "password" => RawFlow::Password, "admin-password" => RawFlow::AdminPassword });
choice!(PayloadSigning { "signed" => PayloadSigning::Signed, "unsigned" => PayloadSigning::Unsigned });

/// The whole file.
pub(super) struct RawConfig {
    pub(super) proxy: RawProxy,
    pub(super) admin: RawAdmin,
    pub(super) log: RawLog,
    pub(super) traces: RawTraces,
    pub(super) upstream: RawUpstream,
    pub(super) auth: Map<RawAuth>,
    pub(super) token_cache: RawTokenCache,
    pub(super) routes: Vec<At<RawRouteEntry>>,
}

/// An `[auth.NAME]` table.
#[derive(Clone)]
pub(super) enum RawAuth {
    ClientCredentials(Box<RawClientCredentials>),
    CognitoUser(Box<RawCognitoUser>),
    SigV4(Box<RawSigV4>),
    /// Its `kind` is missing or unknown; noted.
    Unknown,
}

/// A `[[route]]` and the `[upstream]` keys that hold for it.
#[derive(Clone)]
pub(super) struct RawRouteEntry {
    pub(super) route: RawRoute,
    pub(super) upstream: RawUpstream,
}

/// Where the proxy listens.
#[derive(Clone)]
pub(super) enum RawListen {
    Tcp(SocketAddr),
    Unix(Text),
}

/// What is done with CONNECT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RawConnect {
    Refuse,
    Tunnel,
    Intercept,
}

/// A user's number in the operating system.
#[derive(Clone, Copy)]
pub(super) struct UserId(pub(super) u32);

/// Where a secret is.
#[derive(Clone)]
pub(super) enum RawSecret {
    Env(At<Text>),
    File(At<Text>),
    Value(At<Literal>),
    Stored(Box<RawStored>),
}

/// A secret that stands in the file itself, or came through `${NAME}`.
#[derive(Clone)]
pub(super) enum Literal {
    InFile(Secret),
    FromEnvironment(Secret),
}

/// Roles that are assumed one after the other.
#[derive(Clone)]
pub(super) struct RawRoles(pub(super) Vec<At<RawAssumeRole>>);

/// The value of a header field.
#[derive(Clone)]
pub(super) enum RawFieldValue {
    Text(Text),
    Secret(RawSecret),
}

/// The way out: a word, or a proxy's URL, which may have a password in it.
#[derive(Clone)]
pub(super) struct RawWay(pub(super) RawFieldValue);

/// Where AWS credentials come from.
#[derive(Clone)]
pub(super) enum RawCredentials {
    Default,
    Environment,
    Container,
    Instance,
    WebIdentity,
    Profile(At<Text>),
    Static(RawStatic),
    IdentityPool(RawIdentityPool),
}

/// Credentials that sign the calls of a login: all forms but an identity pool, which is what a login is for.
#[derive(Clone)]
pub(super) struct RawSigner(pub(super) RawCredentials);

/// How a user's password is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RawFlow {
    Srp,
    Password,
    AdminPassword,
}

const KINDS: &[(&str, &[Key])] = &[
    ("client-credentials", RawClientCredentials::KEYS),
    ("cognito-user", RawCognitoUser::KEYS),
    ("sigv4", RawSigV4::KEYS),
];
const PROFILE: Key =
    Key { name: "profile", kind: Type::Text, default: None, required: false, doc: " A profile of ~/.aws/config.\n" };
const STATIC: Key = Key {
    name: "static",
    kind: Type::Table(RawStatic::KEYS),
    default: None,
    required: false,
    doc: " Keys of one's own.\n",
};
const IDENTITY_POOL: Key = Key {
    name: "identity_pool",
    kind: Type::Table(RawIdentityPool::KEYS),
    default: None,
    required: false,
    doc: " An identity of a Cognito identity pool.\n",
};
const CREDENTIALS_KEYS: &[Key] = &[PROFILE, STATIC, IDENTITY_POOL];
const ROOT: [&str; 8] = ["proxy", "admin", "log", "traces", "upstream", "auth", "token_cache", "route"];

/// Whether `name` is a key or table of ours, of any section.
pub(super) fn is_key(name: &str) -> bool {
    ROOT.contains(&name)
        || matches!(name, "env" | "file" | "value" | "secretsmanager" | "ssm" | "key")
        || kind_of(name).is_some()
}

/// Whether what is written for `name` may be shown.
pub(super) fn is_plain(name: &str) -> bool {
    // `token` says which one, but looks like the place for one.
    kind_of(name).is_some_and(|kind| !is_secret(kind)) && !ROOT.contains(&name) && name != "token"
        || matches!(name, "auth" | "upstream")
}

/// Whether `name` is a table of ours that has keys of ours.
pub(super) fn is_table(name: &str) -> bool {
    let inside = |kind| matches!(kind, Type::Table(_) | Type::Tables(_) | Type::ChoiceOrTable(..) | Type::List(_));
    ROOT.contains(&name) || kind_of(name).is_some_and(inside)
}

/// Whether `name` is a key of ours under which anything may be secret.
pub(super) fn holds_secrets(name: &str) -> bool {
    kind_of(name).is_some_and(is_secret)
}

/// The table that `name` is a key of, as a user would write it.
pub(super) fn home_of(name: &str) -> Option<&'static str> {
    let section = SECTIONS.iter().find(|section| section.keys.iter().any(|key| key.name == name))?;
    Some(if section.header == "[upstream]" { "[upstream] or a [[route]]" } else { section.header })
}

/// The keys of all tables.
pub(super) fn all_keys() -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().flat_map(|section| section.keys).map(|key| key.name)
}

fn is_secret(kind: Type) -> bool {
    matches!(kind, Type::Secret | Type::TextOrSecret | Type::Map(_))
}

fn kind_of(name: &str) -> Option<Type> {
    fn find(keys: &'static [Key], name: &str) -> Option<Type> {
        keys.iter().find_map(|key| {
            if key.name == name {
                return Some(key.kind);
            }
            let (Type::Table(inner) | Type::Tables(inner) | Type::ChoiceOrTable(_, inner)) = key.kind else {
                return None;
            };
            find(inner, name)
        })
    }
    if name == "kind" {
        return Some(Type::Text);
    }
    SECTIONS.iter().find_map(|section| find(section.keys, name))
}
