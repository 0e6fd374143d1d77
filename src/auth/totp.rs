//! One-time codes of an authenticator app (RFC 6238): HMAC-SHA1, six digits, 30 seconds, as Cognito makes them.
//!
//! A code is good for one login; [`Totp::code`] therefore never gives the same one twice. Imports `secret`.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// RFC 6238 5.2 recommends it, and Cognito has no other.
const STEP: Duration = Duration::from_secs(30);

/// Whether `seed` is one that an authenticator app would take: base32 (RFC 4648 6), in any case, with spaces or padding.
pub fn is_seed(seed: &Secret) -> bool {
    decode(seed.expose()).is_some_and(|key| !key.is_empty())
}

/// Makes codes, each once.
#[derive(Default)]
pub struct Totp {
    /// The step whose code was given last.
    last: Mutex<Option<u64>>,
}

/// Why there is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCode {
    /// The seed is not base32.
    Seed,
    /// The code of this step was given before; the next one begins in so long.
    Used(Duration),
}

impl Totp {
    /// The code at `now`.
    ///
    /// # Errors
    /// [`NoCode`].
    pub fn code(&self, seed: &Secret, now: SystemTime) -> Result<String, NoCode> {
        let key = decode(seed.expose()).ok_or(NoCode::Seed)?;
        let step = self.free(now)?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
        Ok(code(&key, step))
    }

    /// The step at `now`, if its code has not been given.
    ///
    /// # Errors
    /// [`NoCode::Used`].
    pub fn free(&self, now: SystemTime) -> Result<u64, NoCode> {
        let elapsed = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let step = elapsed.as_secs() / STEP.as_secs();
        match *self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            // A clock that was set back gives old codes: those are used too.
            Some(last) if step <= last => Err(NoCode::Used(
                (STEP * u32::try_from(last - step + 1).unwrap_or(u32::MAX))
                    .saturating_sub(Duration::from_secs(elapsed.as_secs() % STEP.as_secs())),
            )),
            _ => Ok(step),
        }
    }
}

impl fmt::Debug for Totp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Totp")
    }
}

/// RFC 4226 5.3.
fn code(key: &[u8], step: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let at = usize::from(tag.as_ref().last().copied().unwrap_or_default() & 0xf);
    let number = tag.as_ref().iter().skip(at).take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    format!("{:06}", (number & 0x7fff_ffff) % 1_000_000)
}

fn decode(base32: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(base32.len()));
    let (mut bits, mut held) = (0_u32, 0_u32);
    let digits = base32.trim_end_matches('=').bytes().filter(|byte| !matches!(byte, b' ' | b'-'));
    for digit in digits {
        let value = match digit.to_ascii_uppercase() {
            letter @ b'A'..=b'Z' => letter - b'A',
            number @ b'2'..=b'7' => number - b'2' + 26,
            _ => return None,
        };
        (bits, held) = ((bits << 5 | u32::from(value)) & 0xfff, held + 5);
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238 appendix B has the ASCII digits "12345678901234567890" as its key for SHA-1.
    const SEED: &str = "gezd gnbv-GY3T QOJQ GEZD GNBV GY3T QOJQ====";

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn codes_are_those_of_rfc_6238() {
        for (second, expected) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(Totp::default().code(&SEED.into(), at(second)).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_code_is_given_once_and_the_next_step_has_the_next() {
        let (totp, seed) = (Totp::default(), Secret::from(SEED));
        let first = totp.code(&seed, at(60)).unwrap();
        assert_eq!(totp.code(&seed, at(60)), Err(NoCode::Used(Duration::from_secs(30))));
        assert_eq!(totp.free(at(89)), Err(NoCode::Used(Duration::from_secs(1))));
        assert_eq!(totp.free(at(59)), Err(NoCode::Used(Duration::from_secs(31))), "a clock that was set back");
        assert_ne!(totp.code(&seed, at(90)).unwrap(), first);
    }

    #[test]
    fn a_seed_is_base32() {
        for seed in ["JBSWY3DPEHPK3PXP", "jbsw y3dp ehpk 3pxp", "MZXW6==="] {
            assert!(is_seed(&seed.into()), "{seed}");
        }
        for seed in ["", "=", "0189", "JBSWY3DP!", "é"] {
            assert!(!is_seed(&seed.into()), "{seed}");
        }
        assert_eq!(**decode("MZXW6===").unwrap(), *b"foo");
    }
}
