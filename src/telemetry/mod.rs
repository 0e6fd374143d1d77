//! What the program says of itself: logs.
//!
//! Metrics live with the modules that count; all are shown by one registry. Imports nothing of ours.

pub mod lines;
pub mod log;
