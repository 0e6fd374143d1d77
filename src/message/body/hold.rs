//! Bodies that a signature covers: read, hashed and held, within one budget for all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::room::Room;
use super::{BodyError, Kind, OutboundBody, Turn, Upload};
use crate::message::hex;

/// A body of unknown length claims this much at a time: 64 KiB, the size of hyper's reads.
const CLAIM_STEP: u64 = 64 * 1024;
/// The budget is counted in these, so that a semaphore of `u32` permits spans 4 TiB.
const UNIT: u64 = 1024;

/// SHA-256 of a body, as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256Hex([u8; 64]);

/// That of no bytes, which most signed requests have.
const OF_NOTHING: Sha256Hex = Sha256Hex(*b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");

/// The bytes that all held bodies may take together.
#[derive(Clone, Debug)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: u64,
    /// How long a body waits for its turn.
    wait: Duration,
}

/// Bytes taken from the budget until it is dropped.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

impl Claim {
    /// Of bytes that are few and not counted.
    pub(super) fn nothing() -> Self {
        Self(None)
    }
}

impl Budget {
    /// A budget of `total` bytes, for which a body waits `wait` at most.
    pub fn new(total: u64, wait: Duration) -> Self {
        let units = usize::try_from(total / UNIT).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), total, wait }
    }

    /// All its bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes claimed now.
    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.units.available_permits() as u64 * UNIT)
    }

    /// Claims `bytes`, waiting for its turn.
    async fn claim(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, BodyError> {
        let no_room = || BodyError::NoRoom { needed: bytes };
        let units = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_too_many| no_room())?;
        if units == 0 {
            return Ok(None);
        }
        match timeout(self.wait, Arc::clone(&self.units).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            Ok(Err(_)) | Err(_) => Err(no_room()),
        }
    }
}

/// Reads and hashes a body that a signature must cover.
///
/// With a known length the whole of it is claimed from `budget` before a byte is read; otherwise 64 KiB first, and then as
/// much again each time. `upload` is told how much there is.
///
/// # Errors
/// [`BodyError`]: `TooLarge` and its kin before reading when the length is known, else as soon as it shows.
///
/// # Cancellation
/// Dropping the future gives its claim back.
pub async fn hold(
    mut incoming: Incoming,
    limit: u64,
    budget: &Budget,
    idle: Duration,
    upload: &Upload,
) -> Result<(OutboundBody, Sha256Hex), BodyError> {
    if incoming.is_end_stream() {
        upload.set(Turn::Over);
        return Ok((OutboundBody::empty(), Sha256Hex::of_nothing()));
    }
    // What is more than the whole budget would wait in vain: the budget may be less than configured, where memory is.
    let whole = budget.total / UNIT * UNIT;
    let too_large =
        || if limit > whole { BodyError::LargerThanBudget { budget: whole } } else { BodyError::TooLarge { limit } };
    let most = limit.min(whole);
    let known = incoming.size_hint().exact();
    if known.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let mut claimed = known.unwrap_or(CLAIM_STEP).min(most);
    let mut permit = budget.claim(claimed).await?;
    let mut room = Room::of(claimed);
    let mut hash = digest::Context::new(&SHA256);
    loop {
        let frame = match timeout(idle, incoming.frame()).await {
            Err(_) => return Err(BodyError::Idle(idle)),
            Ok(None) => break,
            Ok(Some(frame)) => frame.map_err(BodyError::Broken)?,
        };
        let Ok(data) = frame.into_data() else { continue };
        let length = (room.written().len() + data.len()) as u64;
        if length > most {
            return Err(too_large());
        }
        if claimed < length {
            // What is claimed is what is allocated, so it doubles as a buffer does.
            let wanted = claimed.saturating_mul(2).clamp(length, most);
            let more = budget.claim(wanted - claimed).await?;
            claimed = wanted;
            match (&mut permit, more) {
                (Some(permit), Some(more)) => permit.merge(more),
                (permit, more) => *permit = more,
            }
            room.grow(claimed);
        }
        hash.update(&data);
        room.push(&data);
        upload.hold(length);
    }
    upload.set(Turn::Over);
    let sha256 = Sha256Hex::written(hash.finish().as_ref());
    if room.written().is_empty() {
        return Ok((OutboundBody::empty(), sha256));
    }
    let claim = Arc::new(Claim(permit));
    Ok((OutboundBody(Kind::Held { bytes: room.freeze(), claim }), sha256))
}

impl Sha256Hex {
    /// These 32 bytes, of a hash or of a code made with it.
    pub fn written(hash: &[u8]) -> Self {
        let mut digits = [b'0'; 64];
        hex::fill(&mut digits, hash);
        Self(digits)
    }

    /// Of a body without a byte.
    pub fn of_nothing() -> Self {
        OF_NOTHING
    }

    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::written(digest::digest(&SHA256, bytes).as_ref())
    }

    /// 64 lower-case hex digits.
    pub fn as_str(&self) -> &str {
        // They are ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_written_in_hex() {
        assert_eq!(Sha256Hex::of(b""), Sha256Hex::of_nothing());
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256Hex::of(b"abc").as_str(), abc);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_waits_for_its_turn_and_is_refused_when_none_comes() {
        let budget = Budget::new(10 * UNIT, Duration::from_secs(10));
        let first = budget.claim(8 * UNIT).await.unwrap();
        assert_eq!(budget.used(), 8 * UNIT);
        assert!(matches!(budget.claim(4 * UNIT).await, Err(BodyError::NoRoom { .. })));
        let waiting = {
            let budget = budget.clone();
            async move { budget.claim(4 * UNIT).await }
        };
        let (second, ()) = tokio::join!(waiting, async { drop(first) });
        assert_eq!(budget.used(), 4 * UNIT);
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_hash_of_nothing_is_the_well_known_one() {
        assert_eq!(
            Sha256Hex::of_nothing().as_str(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
