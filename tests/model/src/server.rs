//! What waits for the end of requests.

#[path = "../../../src/server/drain.rs"]
pub mod drain;
