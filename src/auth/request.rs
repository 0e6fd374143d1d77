//! What an authoriser sees of a request, and what it gives back. Computing a grant changes nothing; the proxy applies it.
//!
//! Imports `message`.

use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::message::body::Sha256Hex;

/// A request as it will be sent, but for the fields of a [`Grant`].
#[derive(Clone, Copy, Debug)]
pub struct Unsigned<'a> {
    /// Method.
    pub method: &'a Method,
    /// What is sent as Host.
    pub authority: &'a Authority,
    /// Path and query, exactly as they go on the wire.
    pub path_and_query: &'a PathAndQuery,
    /// All fields but Host.
    pub headers: &'a HeaderMap,
    /// The hash of the body, where the scheme asked for it.
    pub payload: Option<&'a Sha256Hex>,
}

/// The fields that make a request authorised.
#[derive(Debug)]
pub struct Grant {
    fields: Vec<(HeaderName, HeaderValue)>,
    generation: u64,
    /// What the signature took, where it is one.
    signing: Option<Duration>,
}

impl Grant {
    /// A grant of these fields; secret values are marked sensitive by whoever makes them.
    pub(super) fn new(fields: Vec<(HeaderName, HeaderValue)>, generation: u64) -> Self {
        Self { fields, generation, signing: None }
    }

    /// Nothing to add: `auth = "none"`.
    pub fn nothing() -> Self {
        Self::new(Vec::new(), 0)
    }

    /// A grant that took so long to sign.
    pub(super) fn signed(fields: Vec<(HeaderName, HeaderValue)>, generation: u64, signing: Duration) -> Self {
        Self { signing: Some(signing), ..Self::new(fields, generation) }
    }

    /// What it adds.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter().map(|(name, _)| name)
    }

    /// What the signature took; `None` where there is none.
    pub fn signing(&self) -> Option<Duration> {
        self.signing
    }

    /// Which fetch of the credential it was made with.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The fields, each of which replaces what is there under its name.
    pub fn into_fields(self) -> Vec<(HeaderName, HeaderValue)> {
        self.fields
    }
}
