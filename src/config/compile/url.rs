//! URLs that the config names: upstreams, token endpoints, STS endpoints.
//!
//! Plain `http://` is taken for loopback only: what goes there carries credentials. Messages never quote a URL; people
//! put passwords and keys into them.

use std::fmt;

use super::Context;
use super::name::{self, NameError};
use super::path::{self, PathError};
use crate::config::read::{At, Text};
use crate::route::upstream::is_loopback;

/// A URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: UrlScheme,
    /// Lower case, no brackets.
    pub(super) host: String,
    /// `None` is the scheme's own.
    pub(super) port: Option<u16>,
    /// Empty, or `/a/b`, without a slash at the end.
    pub(super) path: String,
    pub(super) query: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UrlScheme {
    Http,
    Https,
}

/// Why a URL cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UrlError {
    #[error("has no scheme in front")]
    NoScheme,
    #[error("has the scheme \"{0}\", which is not one of https and http")]
    Scheme(String),
    #[error("has a user name or password in it")]
    Userinfo,
    #[error("has no host")]
    NoHost,
    #[error("{0}")]
    Host(NameError),
    #[error("has the port \"{0}\", which is not a number from 1 to 65535")]
    Port(String),
    #[error("{0}")]
    Path(PathError),
    #[error("has a query")]
    Query,
    #[error("has a fragment")]
    Fragment,
    #[error("sends credentials in plain text: http:// is for loopback only")]
    PlainText,
}

/// Whether a URL may have a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// RFC 6749 3.2 lets token endpoints have one.
    Allowed,
    Refused,
}

impl UrlScheme {
    pub(super) fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Url {
    /// Takes `text` apart.
    pub(super) fn parse(text: &str, query: Query) -> Result<Self, UrlError> {
        let url = Self::parse_open(text, query)?;
        if url.is_open() { Err(UrlError::PlainText) } else { Ok(url) }
    }

    /// The same for what may carry no credential.
    pub(super) fn parse_open(text: &str, query: Query) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "https" => UrlScheme::Https,
            "http" => UrlScheme::Http,
            other if other.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                return Err(UrlError::Scheme(other.to_owned()));
            }
            _ => return Err(UrlError::NoScheme),
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::Userinfo);
        }
        let (host, port) = split_port(authority)?;
        if host.is_empty() {
            return Err(UrlError::NoHost);
        }
        let host = name::parse(host).map_err(UrlError::Host)?;
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (path, asked) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        if asked.is_some() && query == Query::Refused {
            return Err(UrlError::Query);
        }
        let path = path::parse(path).map_err(UrlError::Path)?.to_owned();
        let port = port.filter(|port| *port != scheme.default_port());
        Ok(Self { scheme, host, port, path, query: asked.map(ToOwned::to_owned) })
    }

    /// Whether what goes there can be read on the way.
    pub(super) fn is_open(&self) -> bool {
        self.scheme == UrlScheme::Http && !is_loopback(&self.host)
    }

    /// The host as it stands in a URL, and the port if it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            UrlScheme::Http => "http",
            UrlScheme::Https => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)?;
        self.query.as_ref().map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

/// `host`, `host:port`, `[address]:port`.
pub(super) fn split_port(authority: &str) -> Result<(&str, Option<u16>), UrlError> {
    let behind_brackets = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let Some(colon) = authority.rfind(':').filter(|colon| *colon >= behind_brackets) else {
        return Ok((authority, None));
    };
    let (host, port) = authority.split_at(colon);
    let port = port.trim_start_matches(':');
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => Ok((host, Some(number))),
        _ => Err(UrlError::Port(port.to_owned())),
    }
}

/// The URL of `key`; a problem is noted when it cannot be used.
pub(super) fn read(key: &str, text: &At<Text>, query: Query, context: &mut Context<'_>) -> Option<Url> {
    match Url::parse(&text.value, query) {
        Ok(url) => Some(url),
        Err(error) => {
            refuse(key, text, &error, context);
            None
        }
    }
}

/// Notes `error`. A value from the environment is not quoted, not even in part.
pub(super) fn refuse(key: &str, text: &At<Text>, error: &UrlError, context: &mut Context<'_>) {
    let message = if let UrlError::Host(error) = error {
        format!("the host in `{key}` {error}")
    } else if let UrlError::Path(error) = error {
        format!("the path in `{key}` {error}")
    } else if text.value.is_filled_in() && matches!(error, UrlError::Scheme(_) | UrlError::Port(_)) {
        format!("`{key}` has a scheme or port that cannot be used")
    } else {
        format!("`{key}` {error}")
    };
    let problem = context.problems.error(text.span, message);
    let help = match error {
        UrlError::NoScheme => Some("begin it with https://".to_owned()),
        UrlError::Scheme(scheme) if matches!(scheme.as_str(), "ws" | "wss") => {
            Some("write https://, and `websocket = true` in the route".to_owned())
        }
        UrlError::Scheme(_) | UrlError::PlainText => Some("write https://".to_owned()),
        UrlError::Userinfo => Some("take it out; credentials belong in an [auth] table".to_owned()),
        UrlError::Query => Some("take it out; the query is always the request's own".to_owned()),
        UrlError::Fragment => Some("take it out; a fragment is never sent".to_owned()),
        UrlError::NoHost | UrlError::Host(_) => {
            Some("a URL looks like \"https://abc123.execute-api.eu-west-1.amazonaws.com/prod\"".to_owned())
        }
        UrlError::Path(path) => path.help(),
        UrlError::Port(_) => None,
    };
    if let Some(help) = help {
        problem.help(help);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_brought_into_one_form() {
        for (text, form) in [
            ("https://ABC.example", "https://abc.example"),
            ("HTTPS://abc.example:443/prod/", "https://abc.example/prod"),
            ("https://abc.example:8443/", "https://abc.example:8443"),
            ("http://localhost:80/x", "http://localhost/x"),
            ("http://[::1]:8000", "http://[::1]:8000"),
        ] {
            assert_eq!(Url::parse(text, Query::Refused).unwrap().to_string(), form, "{text}");
        }
        assert_eq!(Url::parse("https://a.b/c?d=e", Query::Allowed).unwrap().to_string(), "https://a.b/c?d=e");
    }

    #[test]
    fn what_cannot_be_dialled_safely_is_refused() {
        for (text, error) in [
            ("abc.example/prod", UrlError::NoScheme),
            ("ftp://abc.example", UrlError::Scheme("ftp".into())),
            ("https://me:pw@abc.example", UrlError::Userinfo),
            ("https:///prod", UrlError::NoHost),
            ("https://:443", UrlError::NoHost),
            ("https://abc.example:0", UrlError::Port("0".into())),
            ("https://abc.example:", UrlError::Port(String::new())),
            ("https://abc.example:+1", UrlError::Port("+1".into())),
            ("https://abc.example:99999", UrlError::Port("99999".into())),
            ("https://abc.example?x", UrlError::Query),
            ("https://abc.example#x", UrlError::Fragment),
            ("https://abc.example/../x", UrlError::Path(PathError::DotSegment)),
            ("http://abc.example", UrlError::PlainText),
            ("http://localhost.evil.example", UrlError::PlainText),
        ] {
            assert_eq!(Url::parse(text, Query::Refused), Err(error), "{text}");
        }
    }
}
