//! What the program says of itself: logs, metrics, readiness.

pub mod log;
