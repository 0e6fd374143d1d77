//! What the program says of itself: logs, traces, and the last requests.
//!
//! Metrics live with the modules that count; all are shown by one registry. Imports `clock`, `message`,
//! `secret`.

pub mod history;
pub mod level;
pub mod lines;
pub mod log;
pub mod pace;
pub mod phases;
mod terminal;
pub mod traces;
