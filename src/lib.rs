//! countersign authenticates plain HTTP requests to Amazon API Gateway, from a sidecar on localhost.
//!
//! A request's way is one straight line, [`proxy::Proxy::serve`]: guard → match → rewrite → authorise → forward →
//! relay → record. Modules import only downwards (`tests/layering.rs` sees to it):
//!
//! | rank | modules |
//! | --- | --- |
//! | 0 | [`units`], [`secret`], [`clock`], [`tasks`], [`sync`], [`message`], [`capacity`]: values and rules; [`tls`]: who is trusted |
//! | 1 | [`telemetry`], [`egress`], [`diagnosis`]: what is said, which proxy leads out, why something failed |
//! | 2 | [`route`]: where requests go |
//! | 3 | [`auth`]: credentials and what they add; [`server`]: sockets, connections, drain |
//! | 4 | [`proxy`]: the way of a request |
//! | 5 | [`admin`]: probes and metrics |
//! | 6 | [`config`]: the file, and all that can be wrong with it |
//! | 7 | [`reload`]: when a config takes the place of another |
//! | 8 | [`app`]: everything put together |
//! | 9 | [`cli`]: arguments, environment, exit codes |

pub mod admin;
pub mod app;
pub mod auth;
pub mod capacity;
pub mod cli;
pub mod clock;
pub mod config;
pub mod diagnosis;
pub mod egress;
pub mod message;
pub mod proxy;
pub mod reload;
pub mod route;
pub mod secret;
pub mod server;
mod sync;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod units;
