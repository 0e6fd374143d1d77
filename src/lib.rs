//! countersign authenticates plain HTTP requests to Amazon API Gateway, from a sidecar on localhost.

pub mod admin;
pub mod auth;
pub mod clock;
pub mod config;
pub mod message;
pub mod proxy;
pub mod route;
pub mod secret;
pub mod server;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod units;
