//! What of a client's bytes may pass: one message at a time, its head whole and its body exactly as long as it is.
//!
//! Knows no sockets and no time. Imports `server::gate::{head, framing}`.

use http::Method;

use super::framing::{ChunkError, Framing};
use super::head::{Head, HeadError, Limits};

/// Reads the bytes of one connection.
#[derive(Debug)]
pub struct Judge {
    limits: Limits,
    phase: Phase,
    strays: Vec<usize>,
}

#[derive(Debug)]
enum Phase {
    Head(Head),
    Body(Framing),
    /// Nothing more may pass.
    Over,
}

/// A request head that did not pass, and what may be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The rule.
    pub error: HeadError,
    /// If the first line has one.
    pub method: Option<Method>,
    /// What it asks for, as it may be shown: without query, fragment, user name and password.
    pub path: Option<String>,
}

/// Why nothing more may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A head broke a rule.
    Head(Refused),
    /// A body did, and its request may be under way.
    Body(ChunkError),
}

impl Default for Judge {
    fn default() -> Self {
        Self::new(Limits::DEFAULT)
    }
}

impl Judge {
    /// Holds heads to `limits`.
    pub fn new(limits: Limits) -> Self {
        Self { limits, phase: Phase::Head(Head::new(limits)), strays: Vec::new() }
    }

    /// How many bytes of the front of `bytes` may pass. A head passes once all of it is there, with as much of its body;
    /// the next request not before it is asked for by another call. What did not pass must be the front of the next
    /// call's `bytes`.
    ///
    /// # Errors
    /// [`Stop`], once; after it, nothing passes.
    pub fn clear(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        match &mut self.phase {
            Phase::Over => Ok(0),
            Phase::Body(framing) => {
                let taken = framing.take(bytes);
                self.after(taken.is_err());
                taken.map_err(Stop::Body)
            }
            Phase::Head(head) => match head.read(bytes) {
                Ok(None) => Ok(0),
                Ok(Some(whole)) => {
                    self.strays = whole.strays;
                    let Some(framing) = whole.framing else {
                        self.phase = Phase::Over;
                        return Ok(whole.length);
                    };
                    self.phase = Phase::Body(framing);
                    let behind = bytes.get(whole.length..).unwrap_or_default();
                    // A body that is wrong from its first byte is told of when it is asked for.
                    Ok(whole.length + self.body(behind))
                }
                Err(error) => {
                    let (method, path) = Head::asked(bytes);
                    self.phase = Phase::Over;
                    Err(Stop::Head(Refused { error, method, path }))
                }
            },
        }
    }

    /// Where, in the bytes that were cleared last, names of `Upgrade` fields begin that ask for no WebSocket.
    pub fn take_strays(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.strays)
    }

    /// Whether the next byte begins a message, or goes on with its head.
    pub fn is_at_head(&self) -> bool {
        matches!(self.phase, Phase::Head(_))
    }

    /// Whether nothing more may pass.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    fn body(&mut self, bytes: &[u8]) -> usize {
        let Phase::Body(framing) = &mut self.phase else { return 0 };
        let taken = framing.take(bytes).unwrap_or(0);
        self.after(false);
        taken
    }

    fn after(&mut self, broken: bool) {
        match &self.phase {
            Phase::Body(_) if broken => self.phase = Phase::Over,
            Phase::Body(framing) if framing.is_over() => self.phase = Phase::Head(Head::new(self.limits)),
            Phase::Head(_) | Phase::Body(_) | Phase::Over => {}
        }
    }
}

#[cfg(test)]
mod tests;
