//! Access tokens: made by the token endpoint, verified by the gateway.
//!
//! They look like Cognito's (a JWT with Cognito's claims), but are signed with HMAC: the doubles share a process, so a key
//! pair and its JWKS would prove nothing more.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::encoding::{random_hex, request_id};

/// Makes tokens, and knows which of them it has taken back.
#[derive(Debug)]
pub(crate) struct Mint {
    key: hmac::Key,
    revoked: Mutex<HashSet<String>>,
    clock: Clock,
}

/// Verifies the tokens of one token endpoint, also after that is gone. Clones share the list of revoked tokens.
#[derive(Debug, Clone)]
pub struct TokenVerifier(Arc<Mint>);

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The app client it was issued to.
    pub client_id: String,
    /// Whom it is about: the app client itself, or a user's name inside the pool.
    pub subject: String,
    /// `access` or `id`.
    pub token_use: String,
    /// The scopes granted, separated by spaces.
    pub scope: String,
    /// The end of its validity.
    pub expires: SystemTime,
}

impl Claims {
    /// Is this one of the scopes granted?
    pub fn grants(&self, scope: &str) -> bool {
        self.scope.split(' ').any(|granted| granted == scope)
    }
}

impl Mint {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        let secret = random_hex(32);
        Arc::new(Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), revoked: Mutex::default(), clock })
    }

    pub(crate) fn issue(&self, client_id: &str, scope: &str, lifetime: Duration) -> String {
        let now = self.clock.now();
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.sign(&json!({
            "sub": client_id, "token_use": "access", "scope": scope, "auth_time": seconds(now), "iss": "standin",
            "exp": seconds(now + lifetime), "iat": seconds(now), "version": 2, "jti": request_id(), "client_id": client_id,
        }))
    }

    /// An access and an ID token of a user, by its name inside the pool.
    pub(crate) fn issue_user(&self, user: &str, client_id: &str, lifetime: Duration) -> (String, String) {
        let now = self.clock.now();
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (iat, exp) = (seconds(now), seconds(now + lifetime));
        let access = json!({
            "sub": user, "token_use": "access", "scope": "aws.cognito.signin.user.admin", "auth_time": iat,
            "iss": "standin", "exp": exp, "iat": iat, "jti": request_id(), "client_id": client_id, "username": user,
        });
        let id = json!({
            "sub": user, "token_use": "id", "auth_time": iat, "iss": "standin", "exp": exp, "iat": iat,
            "jti": request_id(), "aud": client_id, "cognito:username": user,
        });
        (self.sign(&access), self.sign(&id))
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({"kid": "standin", "alg": "HS256"});
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    pub(crate) fn revoke(&self, token: &str) {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned());
    }
}

impl TokenVerifier {
    pub(crate) fn new(mint: Arc<Mint>) -> Self {
        Self(mint)
    }

    /// What the token says, if it is genuine, not expired by the token endpoint's clock and not revoked.
    ///
    /// # Errors
    /// Which of these it is not, in words without the token.
    pub fn verify(&self, token: &str) -> Result<Claims, String> {
        self.verify_at(token, self.0.clock.now())
    }

    /// As [`verify`](Self::verify), at another time.
    ///
    /// # Errors
    /// As there.
    pub fn verify_at(&self, token: &str, now: SystemTime) -> Result<Claims, String> {
        let (signed, signature) = token.rsplit_once('.').ok_or("the token is not a JWT")?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|error| format!("the signature: {error}"))?;
        hmac::verify(&self.0.key, signed.as_bytes(), &signature)
            .map_err(|error| format!("the token was not issued here: {error}"))?;
        let claims = Self::read(signed).expect("a token that was issued here has its claims");
        if claims.expires <= now {
            return Err("the token has expired".to_owned());
        }
        if self.0.revoked.lock().unwrap_or_else(PoisonError::into_inner).contains(token) {
            return Err("the token has been revoked".to_owned());
        }
        Ok(claims)
    }

    fn read(signed: &str) -> Option<Claims> {
        let (_, claims) = signed.split_once('.')?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        Some(Claims {
            // ID tokens have an audience and no scope.
            client_id: claims["client_id"].as_str().or_else(|| claims["aud"].as_str())?.to_owned(),
            subject: claims["sub"].as_str()?.to_owned(),
            token_use: claims["token_use"].as_str()?.to_owned(),
            scope: claims["scope"].as_str().unwrap_or_default().to_owned(),
            expires: UNIX_EPOCH + Duration::from_secs(claims["exp"].as_u64()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn a_token_verifies_until_it_expires() {
        let start = UNIX_EPOCH + Duration::from_mins(24_015_636);
        let mint = Mint::new(Clock::new(move || start));
        let verifier = TokenVerifier::new(Arc::clone(&mint));
        let token = mint.issue("orders", "orders/read orders/write", HOUR);
        let claims = verifier.verify(&token).unwrap();
        assert_eq!((claims.client_id.as_str(), claims.expires), ("orders", start + HOUR));
        assert!(claims.grants("orders/write") && !claims.grants("orders"));
        assert_eq!(verifier.verify_at(&token, start + HOUR), Err("the token has expired".to_owned()));
    }

    #[test]
    fn a_revoked_a_foreign_and_a_changed_token_are_refused() {
        let mint = Mint::new(Clock::system());
        let verifier = TokenVerifier::new(Arc::clone(&mint));
        let token = mint.issue("orders", "", HOUR);
        assert!(verifier.verify(&Mint::new(Clock::system()).issue("orders", "", HOUR)).is_err());
        assert!(verifier.verify(&token.replacen("ey", "eY", 1)).is_err());
        assert!(verifier.verify("").is_err());
        mint.revoke(&token);
        assert_eq!(verifier.verify(&token), Err("the token has been revoked".to_owned()));
    }
}
