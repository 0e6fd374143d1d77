//! Rules for the parts of an HTTP message: fields, request-target, body.
//!
//! Pure functions and small types; nothing here knows routes, credentials or sockets. Imports nothing of ours.

pub mod body;
pub mod fields;
pub mod frames;
pub mod framing;
pub mod gateway_ids;
pub mod hex;
pub mod response;
pub mod target;
pub mod websocket;
