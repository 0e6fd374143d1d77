//! `[auth.*]` tables, and which of them routes use.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderName;

use super::field::{self, AuthFields};
use super::sigv4::{Signing, Toward};
use super::url::{self, Query};
use super::{Context, secret, user};
use crate::auth::spec::{Bearer, ClientCredentials, CognitoUser, Kind, Spec, TokenSource};
use crate::config::raw::{RawAuth, RawClientCredentials};
use crate::config::read::{At, Map, Text, nearest};

/// Sends requests as they are.
pub(super) const NONE: &str = "none";

/// Form fields that a token request has anyway (RFC 6749 4.4.2).
const OWN_PARAMS: [&str; 4] = ["grant_type", "client_id", "client_secret", "scope"];

/// All `[auth.*]` tables, and the specs that routes asked for so far.
pub(super) struct Auths {
    entries: Vec<Entry>,
    specs: Vec<Spec>,
}

struct Entry {
    name: At<String>,
    /// `None`: it has errors of its own.
    meaning: Option<Meaning>,
    used: bool,
}

enum Meaning {
    Bearer(Bearer),
    SigV4(Signing),
}

/// All tables by name, and whose logins those of kind "cognito-user" are; `None` for other kinds, and an inner `None` for
/// one that has errors of its own.
pub(super) type Logins = BTreeMap<String, Option<Option<CognitoUser>>>;

/// Compiles all tables.
pub(super) fn compile(auths: &Map<RawAuth>, context: &mut Context<'_>) -> Auths {
    let mut entries = Vec::new();
    let mut logins = Logins::new();
    for (name, auth) in auths {
        check_name(name, context);
        let mut login = None;
        let meaning = match &auth.value {
            RawAuth::CognitoUser(raw) => {
                let (user, bearer) = user::compile(raw, context);
                login = Some(user);
                bearer.map(Meaning::Bearer)
            }
            // Below, once all logins are known.
            RawAuth::ClientCredentials(_) | RawAuth::SigV4(_) | RawAuth::Unknown => None,
        };
        logins.insert(name.value.clone(), login);
        entries.push(Entry { name: name.clone(), meaning, used: false });
    }
    let logins = Arc::new(logins);
    context.logins = Some(Arc::clone(&logins));
    for ((name, auth), entry) in auths.iter().zip(&mut entries) {
        entry.meaning = match &auth.value {
            RawAuth::ClientCredentials(raw) => bearer(raw, context).map(Meaning::Bearer),
            RawAuth::SigV4(raw) => Signing::compile(raw, &name.value, context).map(Meaning::SigV4),
            RawAuth::CognitoUser(_) | RawAuth::Unknown => continue,
        };
    }
    Auths { entries, specs: Vec::new() }
}

impl Auths {
    /// The scheme that a route's `auth` means towards its upstream, and the fields that it writes.
    pub(super) fn bind(
        &mut self,
        auth: &At<Text>,
        upstream: Option<Toward<'_>>,
        context: &mut Context<'_>,
    ) -> (Option<usize>, AuthFields) {
        if &*auth.value == NONE {
            return (None, AuthFields::None);
        }
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.name.value == *auth.value) else {
            self.refuse_unknown(auth, context);
            return (None, AuthFields::None);
        };
        entry.used = true;
        let (kind, fields) = match &entry.meaning {
            None => return (None, AuthFields::None),
            Some(Meaning::Bearer(bearer)) => {
                (Some(Kind::Bearer(bearer.clone())), AuthFields::Bearer(bearer.header.clone()))
            }
            Some(Meaning::SigV4(signing)) => {
                let toward = upstream.and_then(|upstream| signing.toward(&upstream, &entry.name.value, context));
                (toward.map(Kind::SigV4), AuthFields::SigV4)
            }
        };
        let scheme = kind.map(|kind| {
            let spec = Spec { name: entry.name.value.as_str().into(), kind };
            self.specs.iter().position(|known| *known == spec).unwrap_or_else(|| {
                self.specs.push(spec);
                self.specs.len() - 1
            })
        });
        (scheme, fields)
    }

    /// Warns of tables that no route named.
    pub(super) fn finish(self, context: &mut Context<'_>) -> Vec<Spec> {
        let borrowed = std::mem::take(&mut context.borrowed);
        for entry in self.entries.iter().filter(|entry| !entry.used && !borrowed.contains(&entry.name.value)) {
            let message = format!("[auth.{}] is not used by any route", entry.name.value);
            context.problems.warning(entry.name.span, message);
        }
        self.specs
    }

    fn refuse_unknown(&mut self, auth: &At<Text>, context: &mut Context<'_>) {
        let names = || self.entries.iter().map(|entry| entry.name.value.as_str()).chain([NONE]);
        let problem = context.problems.error(auth.span, format!("there is no [auth] table called {}", auth.value));
        let Some(meant) = nearest(&auth.value, names()).map(ToOwned::to_owned) else {
            let known = names().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            problem.help(format!("known are {known}"));
            return;
        };
        problem.help(format!("did you mean \"{meant}\"?"));
        // It is not unused, only misspelt.
        for entry in self.entries.iter_mut().filter(|entry| entry.name.value == meant) {
            entry.used = true;
        }
    }
}

fn check_name(name: &At<String>, context: &mut Context<'_>) {
    if name.value == NONE {
        let problem = context.problems.error(name.span, "an [auth] table cannot be called \"none\"");
        problem.help("`auth = \"none\"` in a route means that requests are sent as they are");
    } else if !is_label(&name.value) {
        context.problems.error(name.span, "the name of this [auth] table cannot be used").help(LABEL_HELP);
    }
}

pub(super) const LABEL_HELP: &str = "a name is 1 to 64 letters, digits, \"-\", \"_\" and \".\"";

/// Whether `name` is fit for logs and metrics without quoting.
pub(super) fn is_label(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Notes an empty string.
pub(super) fn filled(key: &str, text: &At<Text>, context: &mut Context<'_>) -> Option<String> {
    if text.value.trim().is_empty() {
        context.problems.error(text.span, format!("`{key}` is empty"));
        return None;
    }
    Some(str::to_owned(&text.value))
}

fn bearer(raw: &RawClientCredentials, context: &mut Context<'_>) -> Option<Bearer> {
    let token_url = raw.token_url.as_ref().and_then(|text| token_url(text, context));
    let client_id = raw.client_id.as_ref().and_then(|text| filled("client_id", text, context));
    let client_secret = raw.client_secret.as_ref().and_then(|raw| secret::find("client_secret", &raw.value, context));
    let scopes = scopes(&raw.scopes.value, context);
    let params = params(&raw.params.value, context);
    let carrier = carrier(&raw.header, &raw.scheme, context);
    let client = ClientCredentials {
        token_url: token_url?,
        client_id: client_id?,
        client_secret: client_secret?,
        client_auth: raw.client_auth.value,
        scopes,
        params,
    };
    let (header, scheme) = carrier?;
    Some(Bearer { token: TokenSource::Client(client), header, scheme })
}

/// The field that carries a token, and the word before it.
pub(super) fn carrier(header: &At<Text>, scheme: &At<Text>, context: &mut Context<'_>) -> Option<(HeaderName, String)> {
    let name = field::field_name("header", &header.value, header.span, context);
    if let Some(reason) = name.as_ref().and_then(field::owner) {
        let message = format!("{} cannot carry a token: {reason}", &*header.value);
        context.problems.error(header.span, message).help("leave `header` out, or name one of the API's own");
    }
    if !scheme.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)) {
        let problem = context.problems.error(scheme.span, "`scheme` is not one word (RFC 9110 11.1)");
        problem.help("write \"Bearer\", or \"\" to send the raw token; the space behind it is added");
    }
    Some((name?, str::to_owned(&scheme.value)))
}

fn token_url(text: &At<Text>, context: &mut Context<'_>) -> Option<String> {
    let url = url::read("token_url", text, Query::Allowed, context)?;
    let cognito = url.host.ends_with(".amazoncognito.com");
    if cognito && url.path != "/oauth2/token" {
        let problem = context.problems.warning(text.span, "this is not the path of Cognito's token endpoint");
        problem.help("it is /oauth2/token");
    }
    Some(url.to_string())
}

/// RFC 6749 3.3: printable ASCII without space, quote and backslash.
fn scopes(raw: &[At<Text>], context: &mut Context<'_>) -> Vec<String> {
    for scope in raw {
        let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        if scope.value.is_empty() || !scope.value.bytes().all(allowed) {
            let problem = context.problems.error(scope.span, "this is not one scope");
            problem.help("write each scope as a string of its own: scopes = [\"orders/read\", \"orders/write\"]");
        }
    }
    raw.iter().map(|scope| str::to_owned(&scope.value)).collect()
}

fn params(raw: &Map<Text>, context: &mut Context<'_>) -> BTreeMap<String, String> {
    for (name, _) in raw {
        if OWN_PARAMS.contains(&name.value.as_str()) {
            let problem = context.problems.error(name.span, format!("`{}` is sent by countersign itself", name.value));
            problem.help(match name.value.as_str() {
                "scope" => "use `scopes`",
                "grant_type" => "take it out; it is always client_credentials",
                _ => "use the key of that name beside `params`",
            });
        }
    }
    raw.iter().map(|(name, value)| (name.value.clone(), str::to_owned(&value.value))).collect()
}
