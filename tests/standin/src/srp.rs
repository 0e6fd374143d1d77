//! The user pool's half of Cognito's SRP-6a (docs/aws.md D2), written from the server's side with an arithmetic of its own, so
//! that it agrees with a client only where both are right.

use aws_lc_rs::{digest, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use num_bigint::{BigInt, BigUint};

/// RFC 5054 appendix A, the group of 3072 bits; decimal digits would do as well.
const PRIME: &str = "\
    ffffffff ffffffff c90fdaa2 2168c234 c4c6628b 80dc1cd1 29024e08 8a67cc74 020bbea6 3b139b22 514a0879 8e3404dd \
    ef9519b3 cd3a431b 302b0a6d f25f1437 4fe1356d 6d51c245 e485b576 625e7ec6 f44c42e9 a637ed6b 0bff5cb6 f406b7ed \
    ee386bfb 5a899fa5 ae9f2411 7c4b1fe6 49286651 ece45b3d c2007cb8 a163bf05 98da4836 1c55d39a 69163fa8 fd24cf5f \
    83655d23 dca3ad96 1c62f356 208552bb 9ed52907 7096966d 670c354e 4abc9804 f1746c08 ca18217c 32905e46 2e36ce3b \
    e39e772c 180e8603 9b2783a2 ec07a28f b5c55df0 6f4c52c9 de2bcbf6 95581718 3995497c ea956ae5 15d22618 98fa0510 \
    15728e5a 8aaac42d ad33170d 04507a33 a85521ab df1cba64 ecfb8504 58dbef0a 8aea7157 5d060c7d b3970f85 a6e1e4c7 \
    abf5ae8c db0933d7 1e8c94e0 4a25619d cee3d226 1ad2ee6b f12ffa06 d98a0864 d8760273 3ec86a64 521f2b18 177b200c \
    bbe11757 7a615d6c 770988c0 bad946e2 08e24fa0 74e5ab31 43db5bfc e0fd108e 4b82d120 a93ad2ca ffffffff ffffffff";

/// What a pool keeps of a password.
#[derive(Debug, Clone)]
pub struct Verifier {
    pool: String,
    user: String,
    salt: String,
    power: BigUint,
}

/// One login that is under way.
#[derive(Debug, Clone)]
pub struct Session {
    pool: String,
    user: String,
    public: String,
    block: Vec<u8>,
    encoded_block: String,
    key: hmac::Key,
}

impl Verifier {
    /// Of this user of the pool `REGION_NAME`.
    pub fn new(pool_id: &str, user: &str, password: &str) -> Self {
        let (_, pool) = pool_id.split_once('_').expect("a pool id has a region in front");
        let salt = random(16);
        let inner = sha256(format!("{pool}{user}:{password}").as_bytes());
        let x = BigUint::from_bytes_be(&sha256(&[twos_complement(&salt), inner].concat()));
        Self {
            pool: pool.to_owned(),
            user: user.to_owned(),
            salt: salt.to_str_radix(16),
            power: BigUint::from(2_u8).modpow(&x, &prime()),
        }
    }

    /// `SALT`.
    pub fn salt(&self) -> &str {
        &self.salt
    }

    /// Begins a login with the client's `SRP_A`; `None` if that is no number, or one that is divisible by the prime.
    pub fn challenge(&self, public: &str) -> Option<Session> {
        let prime = prime();
        let theirs = BigUint::parse_bytes(public.as_bytes(), 16)?;
        if &theirs % &prime == BigUint::ZERO {
            return None;
        }
        let secret = random(32);
        let generator = BigUint::from(2_u8);
        let k = BigUint::from_bytes_be(&sha256(&[twos_complement(&prime), twos_complement(&generator)].concat()));
        let ours = (k * &self.power + generator.modpow(&secret, &prime)) % &prime;
        let u = BigUint::from_bytes_be(&sha256(&[twos_complement(&theirs), twos_complement(&ours)].concat()));
        // (A · v^u) ^ b
        let shared = (theirs * self.power.modpow(&u, &prime)).modpow(&secret, &prime);
        let extract = hmac::Key::new(hmac::HMAC_SHA256, &twos_complement(&u));
        let extracted = hmac::sign(&extract, &twos_complement(&shared));
        let expand = hmac::Key::new(hmac::HMAC_SHA256, extracted.as_ref());
        let expanded = hmac::sign(&expand, b"Caldera Derived Key\x01");
        let block = random_bytes(700);
        Some(Session {
            pool: self.pool.clone(),
            user: self.user.clone(),
            public: ours.to_str_radix(16),
            encoded_block: STANDARD.encode(&block),
            block,
            key: hmac::Key::new(hmac::HMAC_SHA256, &expanded.as_ref()[..16]),
        })
    }
}

impl Session {
    /// `SRP_B`.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// `SECRET_BLOCK`.
    pub fn block(&self) -> &str {
        &self.encoded_block
    }

    /// Does this `PASSWORD_CLAIM_SIGNATURE` show that the client knows the password?
    pub fn verify(&self, signature: &str, timestamp: &str) -> bool {
        let signed = [self.pool.as_bytes(), self.user.as_bytes(), &self.block, timestamp.as_bytes()].concat();
        STANDARD.decode(signature).is_ok_and(|signature| hmac::verify(&self.key, &signed, &signature).is_ok())
    }
}

fn prime() -> BigUint {
    let digits: String = PRIME.split(' ').collect();
    BigUint::parse_bytes(digits.as_bytes(), 16).expect("the prime is written in hex")
}

/// What Java's `BigInteger.toByteArray` gives, since the real pool is written in Java.
fn twos_complement(number: &BigUint) -> Vec<u8> {
    BigInt::from(number.clone()).to_signed_bytes_be()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

fn random(bytes: usize) -> BigUint {
    BigUint::from_bytes_be(&random_bytes(bytes))
}

fn random_bytes(bytes: usize) -> Vec<u8> {
    let mut random = vec![0; bytes];
    rand::fill(&mut random).expect("the system gives random bytes");
    random
}
