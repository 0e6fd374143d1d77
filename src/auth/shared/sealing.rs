//! What stands in the store: entries that only who has the client's secret can read or make.
//!
//! The key of an entry and its name are derived (HKDF-SHA-256, HMAC) from the client secret and from all of the credential's
//! settings, so two credentials never share an entry, and a rotated secret begins a new one. The store sees a name that
//! tells nothing, and ciphertext (AES-256-GCM) that nobody without the secret can forge. An old entry that is put back
//! still opens: who reads it judges its end and generation. Imports `secret`.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::{hkdf, hmac};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::auth::oauth::is_token;
use crate::auth::spec::{ClientAuth, ClientCredentials};
use crate::secret::Secret;

/// The form of entries. Another number is another name, another key, and so another entry: releases that do not read each
/// other's entries do not see them either.
const VERSION: u8 = 1;
const SALT: &[u8] = b"countersign token cache";
/// A sealed token is some 2 KiB, 22 KiB at most; what is larger is none of ours.
pub(super) const LARGEST_ENTRY: usize = 64 * 1024;
/// No token lives longer (Cognito's longest).
const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// Opens and seals the entry of one credential, as long as its client has one secret.
pub(super) struct Keys {
    /// 64 hex digits.
    name: String,
    seal: RandomizedNonceKey,
    fingerprint: [u8; 32],
}

/// A token as the fleet shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) token: Secret,
    /// Its end by the wall clock of who fetched it.
    pub(super) expires: SystemTime,
    /// The life that it had when it was fetched.
    pub(super) life: Duration,
    /// Grows with every fetch of the fleet.
    pub(super) generation: u64,
    pub(super) scopes: Option<String>,
}

/// Bytes that are no entry of this credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbage;

#[derive(Serialize, Deserialize)]
struct Written {
    token: Zeroizing<String>,
    /// Milliseconds since 1970.
    expires: u64,
    /// Milliseconds.
    life: u64,
    generation: u64,
    scopes: Option<String>,
}

/// A length that HKDF can be asked for.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Keys {
    /// Those of `client` while its secret is `secret`. `None` where the crypto library refuses, which it has no reason to.
    pub(super) fn derive(client: &ClientCredentials, secret: &Secret) -> Option<Self> {
        let fingerprint = fingerprint(client);
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret.expose().as_bytes());
        let derived = |purpose: &[u8]| {
            let mut key = Zeroizing::new([0; 32]);
            let info = [purpose, &[VERSION], &fingerprint];
            root.expand(&info, Length(32)).ok()?.fill(&mut *key).ok()?;
            Some(key)
        };
        let seal = RandomizedNonceKey::new(&AES_256_GCM, &*derived(b"seal")?).ok()?;
        let name = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*derived(b"name")?), &fingerprint);
        let mut hex = String::with_capacity(64);
        for byte in name.as_ref() {
            write!(hex, "{byte:02x}").ok()?;
        }
        Some(Self { name: hex, seal, fingerprint })
    }

    /// What the store calls the entry, without the prefix.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The entry as it goes to the store: version, nonce, ciphertext, tag. `None` for one that is too large for any reader.
    pub(super) fn seal(&self, entry: &Entry) -> Option<Vec<u8>> {
        let written = Written {
            token: Zeroizing::new(entry.token.expose().to_owned()),
            expires: millis(entry.expires.duration_since(SystemTime::UNIX_EPOCH).ok()?),
            life: millis(entry.life),
            generation: entry.generation,
            scopes: entry.scopes.clone(),
        };
        // Sealed in place: what is freed here is ciphertext.
        let mut text = serde_json::to_vec(&written).ok()?;
        let nonce = self.seal.seal_in_place_append_tag(self.aad(), &mut text).ok()?;
        let sealed = [[VERSION].as_slice(), nonce.as_ref(), &text].concat();
        (sealed.len() <= LARGEST_ENTRY).then_some(sealed)
    }

    /// The entry that `sealed` is.
    ///
    /// # Errors
    /// [`Garbage`]: it is of another credential, version or program, was changed, or holds what no token can be.
    pub(super) fn open(&self, sealed: &[u8]) -> Result<Entry, Garbage> {
        let (&[VERSION], rest) = sealed.split_first_chunk::<1>().ok_or(Garbage)? else { return Err(Garbage) };
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Garbage)?;
        if sealed.len() > LARGEST_ENTRY {
            return Err(Garbage);
        }
        let mut text = Zeroizing::new(text.to_vec());
        let opened = self.seal.open_in_place(Nonce::from(nonce), self.aad(), &mut text);
        let written: Written =
            serde_json::from_slice(opened.map_err(|_forged| Garbage)?).map_err(|_quotes_a_token| Garbage)?;
        let Written { token, expires, life, generation, scopes } = written;
        let life = Duration::from_millis(life);
        let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(expires)).ok_or(Garbage)?;
        if !is_token(&token) || life.is_zero() || life > LONGEST_LIFE {
            return Err(Garbage);
        }
        Ok(Entry { token: Secret::from(token.as_str()), expires, life, generation, scopes })
    }

    /// Bound to the ciphertext, so that it opens as the entry of this credential alone, whatever the keys are.
    fn aad(&self) -> Aad<[u8; 33]> {
        let mut aad = [VERSION; 33];
        if let Some((_version, fingerprint)) = aad.split_first_mut() {
            fingerprint.copy_from_slice(&self.fingerprint);
        }
        Aad::from(aad)
    }
}

/// Of all settings of the credential but the secret; where that one comes from may differ in a fleet.
fn fingerprint(client: &ClientCredentials) -> [u8; 32] {
    let ClientCredentials { token_url, client_id, client_secret: _, client_auth, scopes, params } = client;
    let client_auth = match client_auth {
        ClientAuth::Basic => "basic",
        ClientAuth::Body => "body",
    };
    let mut all = Context::new(&SHA256);
    // Each with its length in front, so that no two lists read alike.
    let mut add = |text: &str| {
        all.update(&(text.len() as u64).to_be_bytes());
        all.update(text.as_bytes());
    };
    for text in [token_url, client_id, client_auth, &scopes.len().to_string()] {
        add(text);
    }
    for scope in scopes {
        add(scope);
    }
    for (name, value) in params {
        add(name);
        add(value);
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(all.finish().as_ref());
    sum
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::spec::SecretSource;

    fn client() -> ClientCredentials {
        ClientCredentials {
            token_url: "https://issuer.example/oauth2/token".into(),
            client_id: "abc".into(),
            client_secret: SecretSource::Fixed("unused".into()),
            client_auth: ClientAuth::Basic,
            scopes: vec!["a/read".into(), "a/write".into()],
            params: [("audience".to_owned(), "x".to_owned())].into(),
        }
    }

    fn keys(client: &ClientCredentials, secret: &str) -> Keys {
        Keys::derive(client, &Secret::from(secret)).unwrap()
    }

    fn entry() -> Entry {
        Entry {
            token: "eyJ.payload.sig".into(),
            expires: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            life: Duration::from_hours(1),
            generation: 7,
            scopes: Some("a/read".to_owned()),
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was_and_the_store_sees_noise() {
        let keys = keys(&client(), "s3cret");
        let sealed = keys.seal(&entry()).unwrap();
        assert_eq!(keys.open(&sealed), Ok(entry()));
        for known in ["eyJ", "payload", "a/read", "abc", "s3cret", "issuer"] {
            assert!(!sealed.windows(known.len()).any(|window| window == known.as_bytes()), "{known}");
            assert!(!keys.name().contains(known));
        }
        assert_eq!(keys.name().len(), 64);
        assert_ne!(keys.seal(&entry()), keys.seal(&entry()), "a fresh nonce each time");
    }

    #[test]
    fn a_writer_without_the_secret_cannot_forge() {
        let own = keys(&client(), "s3cret");
        let sealed = own.seal(&entry()).unwrap();
        for index in 0..sealed.len() {
            for bit in [1, 0x80] {
                let mut changed = sealed.clone();
                changed[index] ^= bit;
                assert_eq!(own.open(&changed), Err(Garbage), "byte {index}");
            }
        }
        for length in 0..sealed.len() {
            assert_eq!(own.open(&sealed[..length]), Err(Garbage), "{length} bytes");
        }
        assert_eq!(own.open(&[sealed.clone(), vec![0]].concat()), Err(Garbage));
        assert_eq!(own.open(&vec![VERSION; LARGEST_ENTRY + 1]), Err(Garbage));
        let others = keys(&client(), "s3cret2");
        assert_ne!(others.name(), own.name(), "a rotated secret begins a new entry");
        assert_eq!(own.open(&others.seal(&entry()).unwrap()), Err(Garbage));
    }

    #[test]
    fn every_setting_makes_another_entry() {
        let base = client();
        let others = [
            ClientCredentials { token_url: "https://issuer.example/token".into(), ..client() },
            ClientCredentials { client_id: "abd".into(), ..client() },
            ClientCredentials { client_auth: ClientAuth::Body, ..client() },
            ClientCredentials { scopes: vec!["a/read".into()], ..client() },
            ClientCredentials { scopes: vec!["a/rea".into(), "da/write".into()], ..client() },
            ClientCredentials { scopes: vec![], ..client() },
            ClientCredentials { params: [("audience".to_owned(), "y".to_owned())].into(), ..client() },
            ClientCredentials { params: [("audienc".to_owned(), "ex".to_owned())].into(), ..client() },
        ];
        let own = keys(&base, "s");
        for other in others {
            let other = keys(&other, "s");
            assert_ne!(own.name(), other.name());
            assert_eq!(own.open(&other.seal(&entry()).unwrap()), Err(Garbage));
        }
        let elsewhere = ClientCredentials { client_secret: SecretSource::File("/run/secret".into()), ..client() };
        assert_eq!(own.name(), keys(&elsewhere, "s").name(), "the same secret from another place");
    }

    #[test]
    fn what_no_token_can_be_is_garbage_however_well_it_is_sealed() {
        let keys = keys(&client(), "s3cret");
        let garbage = [
            Entry { token: "two\r\nlines: x".into(), ..entry() },
            Entry { token: "".into(), ..entry() },
            Entry { life: Duration::ZERO, ..entry() },
            Entry { life: Duration::from_hours(25), ..entry() },
        ];
        for entry in garbage {
            assert_eq!(keys.open(&keys.seal(&entry).unwrap()), Err(Garbage), "{entry:?}");
        }
        let large = Entry { scopes: Some("x".repeat(LARGEST_ENTRY)), ..entry() };
        assert_eq!(keys.seal(&large), None);
    }
}
