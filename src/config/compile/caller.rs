//! Who may call: web origins and the caller token.

use std::path::Path;

use http::HeaderValue;

use super::name::{self, NameError};
use super::url::split_port;
use super::{Context, secret};
use crate::auth::spec::SecretSource;
use crate::config::diagnostic::{Severity, Span};
use crate::config::raw::RawSecret;
use crate::config::read::{At, Text};
use crate::secret::LocalSecret;

/// Why a text is no origin that could ever call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum OriginError {
    #[error("is \"*\", and would let every web page use the credentials")]
    Any,
    #[error("is \"null\", which is what any page can call itself")]
    Null,
    #[error("does not begin with http:// or https://")]
    Scheme,
    #[error("has a user name or password in it")]
    Userinfo,
    #[error("has something behind the host and port; an origin has no path, not even a \"/\"")]
    Path,
    #[error("has a host that {0}")]
    Host(NameError),
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    #[error("is not written as browsers write it, and so would never match")]
    Form(String),
}

/// The origins whose pages may call.
pub(super) fn origins(origins: &[At<Text>], context: &mut Context<'_>) -> Vec<HeaderValue> {
    let mut known: Vec<HeaderValue> = Vec::new();
    for At { value, span } in origins {
        match parse(value) {
            Ok(origin) if known.contains(&origin) => {
                context.problems.error(*span, "this origin stands twice in `allowed_origins`").help("take one out");
            }
            Ok(origin) => known.push(origin),
            Err(error) => {
                let problem = context.problems.error(*span, format!("an item of `allowed_origins` {error}"));
                // What came from the environment is not shown.
                if let (OriginError::Form(form), false) = (&error, value.is_filled_in()) {
                    problem.help(format!("write \"{form}\""));
                } else {
                    problem.help("write scheme, host and port, as in \"http://localhost:3000\"");
                }
            }
        }
    }
    known
}

/// An origin as a browser writes it: lower case, and without the scheme's own port (RFC 6454 6.2).
fn parse(text: &str) -> Result<HeaderValue, OriginError> {
    match text {
        "*" => return Err(OriginError::Any),
        "null" => return Err(OriginError::Null),
        _ => {}
    }
    let (scheme, rest) = text.split_once("://").ok_or(OriginError::Scheme)?;
    let scheme = scheme.to_ascii_lowercase();
    let own_port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return Err(OriginError::Scheme),
    };
    if rest.contains('@') {
        return Err(OriginError::Userinfo);
    }
    if rest.contains(['/', '?', '#', '\\']) {
        return Err(OriginError::Path);
    }
    let (host, port) = split_port(rest).map_err(|_not_a_port| OriginError::Port)?;
    let host = name::parse(host).map_err(OriginError::Host)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let form = match port.filter(|port| *port != own_port) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    };
    match HeaderValue::from_str(&form) {
        Ok(origin) if form == text => Ok(origin),
        _ => Err(OriginError::Form(form)),
    }
}

/// What callers must show; `name` is the key's.
pub(super) fn token(name: &'static str, raw: &At<RawSecret>, context: &mut Context<'_>) -> Option<LocalSecret> {
    let source = match secret::find(name, &raw.value, context)? {
        SecretSource::Fixed(secret) => LocalSecret::Fixed(secret),
        SecretSource::File(path) => LocalSecret::File(path),
        SecretSource::Stored(_) => {
            let problem = context.problems.error(raw.span, format!("`{name}` cannot come from a store"));
            problem.help("callers must not wait for AWS: write { file = \"path\" } or { env = \"NAME\" }");
            return None;
        }
    };
    // What `find` could read a moment ago can be read again.
    let token = source.read().ok()?;
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    if !token.expose().bytes().all(fits) {
        let message = format!("the secret `{name}` has a character that cannot be sent");
        let problem = context.problems.error(raw.span, message);
        problem.help(
            "it goes into a header and into the user name of a URL: letters, digits, \"-\", \"_\" and \".\" are safe",
        );
    } else if token.expose().len() < SHORTEST_TOKEN {
        let message = format!("the secret `{name}` is short enough to be guessed");
        let problem = context.problems.warning(raw.span, message);
        problem.help("make one with `openssl rand -hex 16`");
    }
    if let (RawSecret::File(file), LocalSecret::File(path)) = (&raw.value, &source) {
        refuse_foreign(name, file.span, path, context);
    }
    Some(source)
}

/// 64 bits in hex: at a million guesses a second, the half of them takes 290,000 years.
const SHORTEST_TOKEN: usize = 16;

/// A token that another user can read, or has written, keeps no other user out.
#[cfg(unix)]
fn refuse_foreign(name: &str, span: Span, path: &Path, context: &mut Context<'_>) {
    use std::os::unix::fs::MetadataExt;

    // Docker mounts its secrets for every user of the container, which mostly has one.
    if !path.starts_with("/run/secrets") {
        let mut is_open = false;
        // `secret::find` has warned of it already; here that is not enough.
        context.problems.retain(|problem| {
            let warns = problem.span == span && problem.severity == Severity::Warning;
            is_open |= warns;
            !warns
        });
        if is_open {
            let message = format!("the file of `{name}` can be read by every user of this machine");
            context.problems.error(span, message).help(format!("chmod o-r {}", path.display()));
        }
    }
    let own = std::fs::metadata("/proc/self").map(|metadata| metadata.uid());
    let owner = std::fs::metadata(path).map(|metadata| metadata.uid());
    if let (Ok(own), Ok(owner)) = (own, owner)
        && owner != own
        && owner != 0
    {
        let message = format!("the file of `{name}` belongs to user {owner}, and this is user {own}");
        context.problems.error(span, message).help(format!("chown {own} {}", path.display()));
    }
}

/// Elsewhere there are no owners to look at.
#[cfg(not(unix))]
fn refuse_foreign(_: &str, _: Span, _: &Path, _: &mut Context<'_>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_taken_as_a_browser_writes_it_and_in_no_other_form() {
        for text in ["http://localhost:3000", "https://app.example", "http://[::1]:5173", "http://localhost"] {
            assert_eq!(parse(text).unwrap(), text);
        }
        for (text, form) in [
            ("HTTP://localhost:3000", "http://localhost:3000"),
            ("http://LocalHost:3000", "http://localhost:3000"),
            ("https://app.example:443", "https://app.example"),
            ("http://[0::1]", "http://[::1]"),
        ] {
            assert_eq!(parse(text), Err(OriginError::Form(form.to_owned())), "{text}");
        }
        for (text, error) in [
            ("*", OriginError::Any),
            ("null", OriginError::Null),
            ("localhost:3000", OriginError::Scheme),
            ("file://x", OriginError::Scheme),
            ("http://localhost:3000/", OriginError::Path),
            ("http://a@localhost", OriginError::Userinfo),
            ("http://localhost:0", OriginError::Port),
            ("http://*.example", OriginError::Host(NameError::Wildcard)),
            ("http://", OriginError::Host(NameError::Empty)),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
