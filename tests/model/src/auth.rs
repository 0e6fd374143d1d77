//! The credentials' cache.

pub mod error {
    //! The program's.
    pub use countersign::auth::error::*;
}
pub mod status {
    //! The program's.
    pub use countersign::auth::status::*;
}
// Formatted where it belongs; its tests stand where this path does not lead.
#[rustfmt::skip]
#[expect(dead_code, reason = "the program uses more of it")]
#[path = "../../../src/auth/refreshing.rs"]
pub mod refreshing;
