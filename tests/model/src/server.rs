//! What waits for the end of requests.

#[rustfmt::skip]
#[expect(dead_code, reason = "the program uses more of it")]
#[path = "../../../src/server/drain.rs"]
pub mod drain;
