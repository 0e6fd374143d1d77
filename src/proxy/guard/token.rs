//! The caller token: what a program must show before it may use anybody's credentials.
//!
//! Takes it as a field of ours, or as the user name or password of Basic credentials, for programs that can only be given
//! a URL. Compares digests in constant time, so that neither the token's bytes nor its length can be measured. Imports
//! `secret`, `message`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::message::fields::CALLER_TOKEN;
use crate::proxy::outcome::ProxyError;
use crate::secret::{LocalSecret, Secret, SecretError};

/// After a change of the file, programs that were given the old token need time to be given the new one
/// (docs/rules.md 3.5).
const OLD_ONE_STAYS: Duration = Duration::from_mins(1);
/// How often the file is looked at. A kubelet itself brings a changed secret only every minute.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A wrong token may be the new one; but guessing must not turn into reading files.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// What callers must show.
#[derive(Debug)]
pub struct CallerToken {
    source: LocalSecret,
    known: Mutex<Known>,
}

/// Digests alone: the token itself is not kept.
struct Known {
    current: Digest,
    old: Option<(Digest, Instant)>,
    looked: Instant,
    unreadable: bool,
}

impl CallerToken {
    /// Reads the token. Blocks for the length of one small file read.
    ///
    /// # Errors
    /// [`SecretError`] when there is none.
    pub fn try_new(source: LocalSecret) -> Result<Self, SecretError> {
        let current = sum(source.read()?.expose().as_bytes());
        let known = Known { current, old: None, looked: Instant::now(), unreadable: false };
        Ok(Self { source, known: Mutex::new(known) })
    }

    /// Lets a request in that shows the token, and takes out every field that carried it.
    ///
    /// # Errors
    /// [`ProxyError::CallerToken`].
    pub fn admit(&self, headers: &mut HeaderMap) -> Result<(), ProxyError> {
        let shown = shown(headers);
        let mut carriers = self.find(&shown);
        if carriers.is_empty() && !shown.is_empty() && self.is_due() {
            self.take(self.source.read());
            carriers = self.find(&shown);
        }
        // Where our own field stands it decides: then `Authorization` is the API's. A right line must not cover for a
        // wrong one beside it.
        let own = headers.contains_key(CALLER_TOKEN);
        let decides = |name: &HeaderName| !own || *name == CALLER_TOKEN;
        let mut carries = carriers.iter().filter(|name| decides(name));
        if !carries.any(|name| headers.get_all(name).iter().count() == 1) {
            return Err(ProxyError::CallerToken);
        }
        for name in carriers {
            headers.remove(name);
        }
        Ok(())
    }

    /// Goes on taking what `before` took, for as long as after a change of the file.
    pub fn succeed(&self, before: &Self) {
        let current = before.known().current;
        let mut known = self.known();
        if !equal(&known.current, &current) {
            known.old = Some((current, Instant::now() + OLD_ONE_STAYS));
        }
    }

    /// Looks at the file from time to time, for as long as anybody asks for this token.
    pub fn follow(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let (source, token) = (self.source.clone(), Arc::downgrade(self));
        async move {
            let LocalSecret::File(_) = &source else { return };
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let source = source.clone();
                // A network file system may take its time, and other tasks must not wait for it.
                let read = tokio::task::spawn_blocking(move || source.read()).await;
                let Some(token) = token.upgrade() else { return };
                if let Ok(read) = read {
                    token.take(read);
                }
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fields that carry the token. All that was shown is compared, whatever matched before.
    fn find(&self, shown: &[(HeaderName, Digest)]) -> Vec<HeaderName> {
        let known = self.known();
        let old = known.old.as_ref().filter(|(_, until)| Instant::now() < *until);
        let mut carriers = Vec::new();
        for (name, sum) in shown {
            let is_current = equal(&known.current, sum);
            let is_old = old.is_some_and(|(old, _)| equal(old, sum));
            if is_current | is_old {
                carriers.push(name.clone());
            }
        }
        carriers
    }

    fn is_due(&self) -> bool {
        matches!(self.source, LocalSecret::File(_)) && self.known().looked.elapsed() >= LOOK_AT_MOST_EVERY
    }

    fn take(&self, read: Result<Secret, SecretError>) {
        let mut known = self.known();
        known.looked = Instant::now();
        match read {
            Ok(token) => {
                known.unreadable = false;
                let new = sum(token.expose().as_bytes());
                if !equal(&known.current, &new) {
                    let old = std::mem::replace(&mut known.current, new);
                    known.old = Some((old, Instant::now() + OLD_ONE_STAYS));
                    tracing::info!(old_one_stays = ?OLD_ONE_STAYS, "the caller token has changed");
                }
            }
            Err(error) if !known.unreadable => {
                known.unreadable = true;
                tracing::warn!(%error, "the caller token cannot be read again; the last one stays");
            }
            Err(_) => {}
        }
    }
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("unreadable", &self.unreadable).finish_non_exhaustive()
    }
}

fn sum(bytes: &[u8]) -> Digest {
    digest(&SHA256, bytes)
}

fn equal(one: &Digest, other: &Digest) -> bool {
    verify_slices_are_equal(one.as_ref(), other.as_ref()).is_ok()
}

/// What a request shows that may be the token, and where.
fn shown(headers: &HeaderMap) -> Vec<(HeaderName, Digest)> {
    let own = headers.get_all(CALLER_TOKEN).iter();
    let mut shown: Vec<_> = own.map(|value| (CALLER_TOKEN, sum(value.as_bytes()))).collect();
    // A program that takes us for its proxy sends the user information of that URL in the second.
    for name in [header::AUTHORIZATION, header::PROXY_AUTHORIZATION] {
        for part in headers.get_all(&name).iter().filter_map(basic).flatten() {
            shown.push((name.clone(), part));
        }
    }
    shown
}

/// Digests of the user name and the password of Basic credentials (RFC 7617 2).
fn basic(line: &HeaderValue) -> Option<[Digest; 2]> {
    let (scheme, credentials) = line.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(credentials.trim()).ok()?);
    let mut parts = decoded.splitn(2, |byte| *byte == b':');
    Some([sum(parts.next()?), sum(parts.next()?)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn with_own(token: &str) -> HeaderMap {
        headers(&[("x-countersign-token", token)])
    }

    fn userinfo(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[tokio::test]
    async fn the_token_is_a_field_or_a_part_of_basic_credentials() {
        let token = CallerToken::try_new(LocalSecret::Fixed(Secret::from("t0ken"))).unwrap();
        for lines in [
            [("x-countersign-token", "t0ken".to_owned())],
            [("authorization", userinfo("t0ken:"))],
            [("authorization", userinfo("x:t0ken"))],
            [("authorization", userinfo("t0ken:anything:else"))],
            [("authorization", userinfo("t0ken:").replace("Basic", "bAsIc"))],
            [("proxy-authorization", userinfo("t0ken:"))],
        ] {
            let lines = lines.each_ref().map(|(name, value)| (*name, value.as_str()));
            let mut headers = headers(&lines);
            assert!(token.admit(&mut headers).is_ok(), "{lines:?}");
            assert!(headers.is_empty(), "what carried it is taken out: {lines:?}");
        }
        for (name, value) in [
            ("authorization", "t0ken".to_owned()),
            ("authorization", "Bearer t0ken".to_owned()),
            ("authorization", userinfo("t0ken")),
            ("authorization", userinfo("x:t0ken:")),
            ("authorization", "Basic ???".to_owned()),
            ("x-countersign-token", String::new()),
            ("x-countersign-token", "t0ke".to_owned()),
            ("x-countersign-token", "T0ken".to_owned()),
            ("x-countersign-token", "t0ken, t0ken".to_owned()),
            ("cookie", "t0ken".to_owned()),
        ] {
            assert!(token.admit(&mut headers(&[(name, &value)])).is_err(), "{name}: {value}");
        }
    }

    #[tokio::test]
    async fn the_callers_own_credentials_stay_beside_our_field() {
        let token = CallerToken::try_new(LocalSecret::Fixed(Secret::from("t0ken"))).unwrap();
        let mut both = headers(&[("x-countersign-token", "t0ken"), ("authorization", "Basic bWU6bWU=")]);
        assert!(token.admit(&mut both).is_ok());
        assert_eq!(both, headers(&[("authorization", "Basic bWU6bWU=")]));
        let covered = userinfo("t0ken:");
        let mut twice = headers(&[("x-countersign-token", "t0ken"), ("authorization", &covered)]);
        assert!(token.admit(&mut twice).is_ok() && twice.is_empty(), "the token never goes on");
        for name in ["x-countersign-token", "authorization"] {
            let (right, wrong) =
                if name == "authorization" { (covered.as_str(), "Basic bWU6bWU=") } else { ("t0ken", "no") };
            assert!(token.admit(&mut headers(&[(name, right), (name, wrong)])).is_err(), "{name}");
            assert!(token.admit(&mut headers(&[(name, wrong), (name, right)])).is_err(), "{name}");
            assert!(token.admit(&mut headers(&[(name, right), (name, right)])).is_err(), "{name}");
        }
        assert!(token.admit(&mut headers(&[("x-countersign-token", "no"), ("authorization", &covered)])).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_token_stays_valid_for_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let token = CallerToken::try_new(LocalSecret::File(path.clone())).unwrap();
        std::fs::write(&path, "two\n").unwrap();
        assert!(token.admit(&mut with_own("two")).is_err(), "it is not read more than once a second");
        tokio::time::advance(LOOK_AT_MOST_EVERY).await;
        assert!(token.admit(&mut with_own("two")).is_ok());
        tokio::time::advance(OLD_ONE_STAYS / 2).await;
        assert!(token.admit(&mut with_own("one")).is_ok());
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(OLD_ONE_STAYS / 2).await;
        assert!(token.admit(&mut with_own("one")).is_err());
        assert!(token.admit(&mut with_own("two")).is_ok(), "a file that is gone takes nothing away");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_noticed_without_a_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "one").unwrap();
        let token = std::sync::Arc::new(CallerToken::try_new(LocalSecret::File(path.clone())).unwrap());
        std::fs::write(&path, "two").unwrap();
        let following = token.follow();
        let waited = tokio::time::timeout(LOOK_EVERY + OLD_ONE_STAYS + LOOK_EVERY, following).await;
        assert!(waited.is_err());
        assert!(token.admit(&mut with_own("one")).is_err());
        assert!(token.admit(&mut with_own("two")).is_ok());
    }
}
