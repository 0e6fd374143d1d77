//! The credentials' cache.

pub mod error {
    //! The program's.
    pub use countersign::auth::error::*;
}
pub mod status {
    //! The program's.
    pub use countersign::auth::status::*;
}
#[path = "../../../src/auth/refreshing.rs"]
pub mod refreshing;
