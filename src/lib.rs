//! countersign authenticates plain HTTP requests to Amazon API Gateway, from a sidecar on localhost.
//!
//! A request's way is one straight line, [`proxy::Proxy::serve`]: guard → match → rewrite → authorise → forward →
//! relay → record. Modules import only downwards (`tests/layering.rs` sees to it):
//!
//! | rank | modules |
//! | --- | --- |
//! | 0 | [`units`], [`secret`], [`clock`], [`tasks`], [`message`]: values and rules; [`tls`]: who is trusted; [`egress`]: which
//! | | proxy leads out |
//! | 1 | [`telemetry`], [`route`]: what is said, where requests go |
//! | 2 | [`auth`]: credentials and what they add; [`server`]: sockets, connections, drain |
//! | 3 | [`proxy`]: the way of a request |
//! | 4 | [`admin`]: probes and metrics |
//! | 5 | [`config`]: the file, and all that can be wrong with it |
//! | 6 | [`app`]: everything put together |
//! | 7 | [`cli`]: arguments, environment, exit codes |

pub mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod egress;
pub mod message;
pub mod proxy;
pub mod route;
pub mod secret;
pub mod server;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod units;
