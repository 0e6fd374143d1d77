//! Cognito's variant of SRP-6a: shows a user pool that we know a password without sending it.
//!
//! The group is RFC 3526's of 3072 bits with the generator 2, the hash SHA-256. What is Cognito's own (docs/aws.md D2): numbers
//! are hashed in two's complement, so one whose top bit is set gets a zero byte in front; the key is cut from an HKDF; the
//! proof covers the time. All arithmetic with secrets takes constant time. Imports `clock`, `secret`.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_bigint::modular::ConstMontyForm;
use crypto_bigint::{U256, U1024, U3072, const_monty_params};
use zeroize::Zeroizing;

use crate::clock::civil::Civil;
use crate::secret::Secret;

/// RFC 3526 section 5, group 15.
const MODULUS: &str = concat!(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD",
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED",
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F",
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B",
    "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510",
    "15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7",
    "ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C",
    "BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF",
);
/// What the key is for (the HKDF's "info"), and the number of its only block.
const KEY_INFO: &[u8] = b"Caldera Derived Key\x01";
const KEY_LENGTH: usize = 16;
/// `a + u·x`: 1024 bits, 512 bits, and a carry.
const EXPONENT_BITS: u32 = 1025;
/// Longer than any salt; 16 bytes are usual.
const LONGEST_SALT: usize = 64;

mod group {
    use super::{MODULUS, U3072, const_monty_params};
    const_monty_params!(Modulus, U3072, MODULUS);
}

const PRIME: U3072 = U3072::from_be_hex(MODULUS);

/// A number modulo the group's prime.
type Element = ConstMontyForm<group::Modulus, { U3072::LIMBS }>;

/// One login: a secret number and what was sent of it. A new login needs a new one.
pub struct Login {
    secret: Zeroizing<U1024>,
    /// `A`.
    public: U3072,
}

/// What the pool answers to `A`, with whose password it must be met.
#[derive(Clone, Copy, Debug)]
pub struct Challenge<'a> {
    /// Of the user pool, whole: `eu-west-1_AbCdEfGhI`.
    pub pool_id: &'a str,
    /// `USER_ID_FOR_SRP`: the name inside the pool, whatever name was typed.
    pub user: &'a str,
    /// `SALT`, in hex.
    pub salt: &'a str,
    /// `SRP_B`, in hex.
    pub public: &'a str,
    /// `SECRET_BLOCK`, in base64.
    pub block: &'a str,
}

/// What shows that we know the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// `PASSWORD_CLAIM_SIGNATURE`.
    pub signature: String,
    /// `TIMESTAMP`, which the signature covers.
    pub timestamp: String,
}

/// A challenge that cannot be met, whatever the password; [`Login::prove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SrpError {
    /// A parameter is not in the form it must have.
    #[error("{0} of the challenge is malformed")]
    Malformed(&'static str),
    /// RFC 5054 2.5.3 and 2.6: with such numbers anybody could pass for the pool.
    #[error("SRP_B of the challenge is a number that gives the password away")]
    Unsafe,
}

impl Login {
    /// A login with a secret number of 1024 random bits, as AWS's own libraries choose it.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut bytes = Zeroizing::new([0; U1024::BYTES]);
        aws_lc_rs::rand::fill(&mut *bytes)?;
        Ok(Self::with_secret(U1024::from_be_slice(&*bytes)))
    }

    fn with_secret(secret: U1024) -> Self {
        let public = power(&U3072::from_u8(2), &secret.resize(), U1024::BITS);
        Self { secret: Zeroizing::new(secret), public }
    }

    /// `SRP_A`, in hex without leading zeros.
    pub fn public(&self) -> String {
        // It is at least 2, and so never empty.
        format!("{:x}", self.public).trim_start_matches('0').to_owned()
    }

    /// Meets `challenge` with `password` at `now`.
    ///
    /// # Errors
    /// [`SrpError`]: the pool's answer is not one that may be met.
    pub fn prove(&self, challenge: &Challenge<'_>, password: &Secret, now: SystemTime) -> Result<Proof, SrpError> {
        let key = self.key(challenge, password)?;
        let block = STANDARD.decode(challenge.block).map_err(|_not_base64| SrpError::Malformed("SECRET_BLOCK"))?;
        let timestamp = timestamp(now);
        let key = hmac::Key::new(HMAC_SHA256, key.as_slice());
        let mut signed = hmac::Context::with_key(&key);
        for part in [pool_name(challenge.pool_id).as_bytes(), challenge.user.as_bytes(), &block, timestamp.as_bytes()] {
            signed.update(part);
        }
        Ok(Proof { signature: STANDARD.encode(signed.sign()), timestamp })
    }

    fn key(&self, challenge: &Challenge<'_>, password: &Secret) -> Result<Zeroizing<Vec<u8>>, SrpError> {
        let salt = hex(challenge.salt).filter(|salt| (1..=LONGEST_SALT).contains(&salt.len()));
        let salt = salt.ok_or(SrpError::Malformed("SALT"))?;
        let theirs = hex(challenge.public).and_then(|bytes| number(&bytes)).ok_or(SrpError::Malformed("SRP_B"))?;
        if theirs == U3072::ZERO || theirs >= PRIME {
            return Err(SrpError::Unsafe);
        }
        let scramble = hash(&[&padded(&trimmed(&self.public)), &padded(&trimmed(&theirs))]);
        if scramble.iter().all(|byte| *byte == 0) {
            return Err(SrpError::Unsafe);
        }

        let identity = hash(&[
            pool_name(challenge.pool_id).as_bytes(),
            challenge.user.as_bytes(),
            b":",
            password.expose().as_bytes(),
        ]);
        let x = Zeroizing::new(U256::from_be_slice(&*hash(&[&padded(&salt), &*identity])));
        let u = U256::from_be_slice(&*scramble);
        let multiplier = U256::from_be_slice(&*hash(&[&padded(&trimmed(&PRIME)), &[2]]));
        // (B - k·g^x) ^ (a + u·x)
        let verifier = Element::new(&power(&U3072::from_u8(2), &x.resize(), U256::BITS));
        let base = Element::new(&theirs).sub(&Element::new(&multiplier.resize()).mul(&verifier));
        let exponent: U3072 = u.concatenating_mul(&x).resize();
        let exponent = Zeroizing::new(exponent.wrapping_add(&self.secret.resize()));
        let shared = Zeroizing::new(base.pow_bounded_exp(&exponent, EXPONENT_BITS).retrieve());

        let salt = hmac::Key::new(HMAC_SHA256, &padded(trim(&*scramble)));
        let extracted = hmac::sign(&salt, &padded(&trimmed(&shared)));
        let expanded = hmac::sign(&hmac::Key::new(HMAC_SHA256, extracted.as_ref()), KEY_INFO);
        Ok(Zeroizing::new(expanded.as_ref().iter().copied().take(KEY_LENGTH).collect()))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("srp::Login")
    }
}

/// In time that depends on `bits` alone.
fn power(base: &U3072, exponent: &U3072, bits: u32) -> U3072 {
    Element::new(base).pow_bounded_exp(exponent, bits).retrieve()
}

fn hash(parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let whole = Zeroizing::new(parts.concat());
    let mut hash = Zeroizing::new([0; 32]);
    hash.copy_from_slice(digest(&SHA256, &whole).as_ref());
    hash
}

/// The part behind the region: names and proofs have it without.
fn pool_name(pool_id: &str) -> &str {
    pool_id.split_once('_').map_or(pool_id, |(_region, name)| name)
}

/// Big-endian, without zeros in front.
fn trimmed(number: &U3072) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(trim(number.to_be_bytes().as_ref()).to_vec())
}

fn trim(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// As Java's `BigInteger.toByteArray` writes a number that is not negative: the fewest bytes whose top bit is clear.
/// Other readings of it fail one login in 256.
fn padded(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let bytes = trim(bytes);
    let top_is_set = bytes.first().is_none_or(|first| first & 0x80 != 0);
    let front: &[u8] = if top_is_set { &[0] } else { &[] };
    Zeroizing::new([front, bytes].concat())
}

/// Of an even or odd number of digits: a number's leading zero is not sent.
fn hex(digits: &str) -> Option<Vec<u8>> {
    let nibbles: Vec<u8> = digits
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|value| value.try_into().ok()))
        .collect::<Option<_>>()?;
    Some(nibbles.rchunks(2).rev().map(|pair| pair.iter().fold(0, |byte, nibble| byte << 4 | nibble)).collect())
}

fn number(bytes: &[u8]) -> Option<U3072> {
    let bytes = trim(bytes);
    let mut whole = [0; U3072::BYTES];
    let start = whole.len().checked_sub(bytes.len())?;
    whole.get_mut(start..)?.copy_from_slice(bytes);
    Some(U3072::from_be_slice(&whole))
}

/// `Tue Sep 5 00:09:40 UTC 2018`: English, and the day without a zero or space in front; the pool compares texts.
fn timestamp(now: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // 1 January 1970 was a Thursday.
    let weekday = usize::try_from(since.as_secs() / 86_400 % 7).ok().and_then(|day| DAYS.get(day)).unwrap_or(&"");
    let Civil { year, month, day, hour, minute, second, .. } = Civil::of(now);
    let month = usize::try_from(month).ok().and_then(|month| MONTHS.get(month - 1)).copied().unwrap_or_default();
    format!("{weekday} {month} {day} {hour:02}:{minute:02}:{second:02} UTC {year}")
}

#[cfg(test)]
mod tests;
