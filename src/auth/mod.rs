//! Authorisation: what is added to a request so that its API takes it.

pub mod spec;
