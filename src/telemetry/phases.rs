//! Where the time of a request goes: every moment between its head and its end belongs to one phase.
//!
//! A request that is sent again spends time in a phase twice; its parts are added. Imports nothing of ours.

use std::time::Duration;

use tokio::time::Instant;

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The checks, and the body where it is held for signing.
    Receive,
    /// A credential, and the signature made with it.
    Credential,
    /// A connection to the upstream, kept or new.
    Connect,
    /// The upstream: from the first byte sent to the head of its answer.
    FirstByte,
    /// The rest of the answer, at the client's pace.
    Body,
}

impl Phase {
    /// All, in the order in which a request goes through them.
    pub const ALL: [Self; 5] = [Self::Receive, Self::Credential, Self::Connect, Self::FirstByte, Self::Body];

    /// Label and member name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Credential => "credential",
            Self::Connect => "connect",
            Self::FirstByte => "first_byte",
            Self::Body => "body",
        }
    }
}

/// A watch that always runs for one phase.
#[derive(Clone, Debug)]
pub struct Phases {
    started: Instant,
    since: Instant,
    now: Phase,
    /// Nanoseconds, in the order of [`Phase::ALL`]; as [`Duration`]s they would be twice as large in each request's future.
    spent: [u64; 5],
}

impl Phases {
    /// Begins to receive.
    pub fn start() -> Self {
        let started = Instant::now();
        Self { started, since: started, now: Phase::Receive, spent: [0; 5] }
    }

    /// From `now` on time goes to `next`.
    pub fn enter(&mut self, next: Phase, now: Instant) {
        self.settle(now);
        self.now = next;
    }

    /// The whole time until `end`, and its parts in the order of [`Phase::ALL`].
    pub fn end(mut self, end: Instant) -> (Duration, [Duration; 5]) {
        self.settle(end);
        (end.saturating_duration_since(self.started), self.spent.map(Duration::from_nanos))
    }

    fn settle(&mut self, now: Instant) {
        let part = now.saturating_duration_since(self.since).as_nanos();
        let part = u64::try_from(part).unwrap_or(u64::MAX);
        self.since = now;
        for (phase, spent) in Phase::ALL.into_iter().zip(&mut self.spent) {
            if phase == self.now {
                *spent = spent.saturating_add(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_parts_are_the_whole() {
        let second = Duration::from_secs(1);
        let mut phases = Phases::start();
        for (phase, seconds) in [(Phase::Credential, 1), (Phase::Connect, 2), (Phase::Credential, 3), (Phase::Body, 4)]
        {
            tokio::time::advance(second * seconds).await;
            phases.enter(phase, Instant::now());
        }
        tokio::time::advance(second * 5).await;
        let (took, spent) = phases.end(Instant::now());
        assert_eq!(took, second * 15);
        assert_eq!(spent, [1, 2 + 4, 3, 0, 5].map(|seconds| second * seconds));
        assert_eq!(spent.iter().sum::<Duration>(), took);
    }
}
