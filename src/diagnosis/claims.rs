//! What a token says of itself, unverified: for words alone, never for a decision about a request.
//!
//! The token is not kept. Imports nothing of ours.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::printable;

/// A token's own words about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// `access` or `id`, of Cognito's.
    pub token_use: Option<String>,
    /// Who gave it.
    pub issuer: Option<String>,
    /// For whom; of several, joined by spaces.
    pub audience: Option<String>,
    /// Of Cognito's access tokens, the app client.
    pub client_id: Option<String>,
    /// Its scopes, separated by spaces.
    pub scope: Option<String>,
    /// Its end.
    pub expires: Option<SystemTime>,
    /// Its beginning: `nbf`, or `iat`.
    pub begins: Option<SystemTime>,
}

impl Claims {
    /// Reads a JWT; `None` for anything else.
    pub fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        let claims = claims.as_object()?;
        let text = |name: &str| match claims.get(name)? {
            Value::String(text) => Some(printable(text)),
            Value::Array(list) => Some(printable(&list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        };
        let time = |name: &str| {
            let seconds = Duration::try_from_secs_f64(claims.get(name)?.as_f64()?).ok()?;
            SystemTime::UNIX_EPOCH.checked_add(seconds)
        };
        Some(Self {
            token_use: text("token_use"),
            issuer: text("iss"),
            audience: text("aud"),
            client_id: text("client_id").or_else(|| text("azp")),
            scope: text("scope").or_else(|| text("scp")),
            expires: time("exp"),
            begins: time("nbf").or_else(|| time("iat")),
        })
    }

    /// Whether its scopes are all of `wanted`.
    pub fn grants(&self, wanted: &str) -> bool {
        let has = |scope: &str| self.scope.iter().flat_map(|own| own.split(' ')).any(|own| own == scope);
        wanted.split(' ').any(has)
    }

    /// All that is known, in one line.
    pub fn describe(&self, now: SystemTime) -> String {
        let exp = self.expires.map(|end| match end.duration_since(now) {
            Ok(left) => format!("expires in {} s", left.as_secs()),
            Err(past) => format!("expired {} s ago", past.duration().as_secs()),
        });
        let named = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} {value}"));
        let parts = [
            named("token_use", &self.token_use),
            exp,
            named("scope", &self.scope),
            named("aud", &self.audience),
            named("client_id", &self.client_id),
            named("iss", &self.issuer),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_of_itself_and_what_is_none_tells_nothing() {
        let payload = r#"{"token_use":"access","iss":"https://cognito-idp.x/p","client_id":"c","aud":["a","b"],
            "scope":"orders/read orders/write","exp":1000,"iat":400}"#;
        let claims = Claims::read(&format!("h.{}.s", URL_SAFE_NO_PAD.encode(payload))).unwrap();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!((claims.expires, claims.begins), (Some(at(1000)), Some(at(400))));
        assert!(claims.grants("stock/read orders/read") && !claims.grants("orders") && !claims.grants(""));
        assert_eq!(
            claims.describe(at(1_060)),
            "token_use access, expired 60 s ago, scope orders/read orders/write, aud a b, client_id c, \
             iss https://cognito-idp.x/p"
        );
        for odd in ["", "opaque", "a.b.c", "a..", "h.W10.s", "h.e30", "AWS4-HMAC-SHA256 a.b.c"] {
            assert_eq!(Claims::read(odd), None, "{odd}");
        }
        for odd in [r#"{"exp":-1}"#, r#"{"exp":"soon","iss":7}"#, r#"{"exp":1e300}"#] {
            let claims = Claims::read(&format!("h.{}.s", URL_SAFE_NO_PAD.encode(odd))).unwrap();
            assert_eq!(claims, Claims::default());
        }
    }
}
