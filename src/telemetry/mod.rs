//! What the program says of itself: logs, readiness.
//!
//! Metrics live with the modules that count; all are shown by one registry. Imports `tasks`.

pub mod log;
