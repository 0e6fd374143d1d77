//! What countersign talks to, on loopback: a Cognito token endpoint, an STS, a container credential endpoint and an
//! API Gateway, for its tests and its demo.
//!
//! Each double answers as the real service does, records what it received, and takes a script of unkind answers. Tokens
//! and SigV4 signatures are verified with code of this crate: neither countersign nor an AWS crate may be imported here,
//! or the signer would be testing itself.
//!
//! Every double listens on a free port of 127.0.0.1, owns its tasks and ends them when dropped. Dropping one whose task
//! panicked, or whose script was not used up, fails the test.

mod authority;
pub mod body;
mod clock;
mod cognito_idp;
mod connect_proxy;
mod container;
mod double;
mod encoding;
mod fault;
mod gateway;
mod identity_pool;
mod keys;
mod ledger;
mod script;
pub mod sigv4;
pub mod srp;
mod sts;
#[cfg(test)]
mod testing;
mod token;
mod token_endpoint;

pub use authority::Authority;
pub use clock::Clock;
pub use cognito_idp::{Factor, PoolClient, PoolUser, Refresh, UserPool};
pub use connect_proxy::{Connect, ConnectProxy, Manners};
pub use container::{ContainerCall, ContainerCredentials};
pub use fault::{Fault, FaultProxy};
pub use gateway::{
    Alpn, ApiKind, Authorizer, BodyEnd, Gateway, GatewayBuilder, Principal, Received, Responder, ResponseFuture,
    TokenForm,
};
pub use identity_pool::IdentityPool;
pub use keys::{AccessKey, AccessKeys};
pub use script::Answer;
pub use sts::{Role, Sts};
pub use token::{Claims, TokenVerifier};
pub use token_endpoint::{AppClient, TokenEndpoint, TokenRequest};

/// What a body or a connection of a double may fail with.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
