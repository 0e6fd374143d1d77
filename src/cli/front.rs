//! The proxy as its callers know it: the URL of its first listener, and the variables that lead there.
//!
//! Has the caller token in the URL, since programs that can be given a variable and nothing else have no other way to
//! show it. Imports `config`, `egress`, `secret`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::{Compiled, Environment};
use crate::egress::METADATA;
use crate::secret::{LocalSecret, Secret};

/// What stands in a URL as it is (RFC 3986 2.3).
const NOT_UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a program has next to it, besides [`METADATA`].
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What callers must know, but the port.
#[derive(Debug)]
pub(super) struct Front {
    scheme: &'static str,
    token: Option<LocalSecret>,
}

impl Front {
    pub(super) fn of(compiled: &Compiled) -> Self {
        let scheme = if compiled.server.tls.is_some() { "https" } else { "http" };
        Self { scheme, token: compiled.proxy.caller_token.clone() }
    }

    /// What callers must be told beside the variables.
    pub(super) fn warning(&self) -> Option<String> {
        let Some(LocalSecret::File(path)) = &self.token else { return None };
        Some(format!(
            "the caller token is in the file {} and may change, so it is not in the URL: callers must read it and send \
             it as x-countersign-token",
            path.display()
        ))
    }

    /// The variables that have programs call the proxy at `listener`.
    pub(super) fn variables(&self, listener: SocketAddr, environment: &Environment) -> [(&'static str, String); 5] {
        let (url, except) = (self.url(listener), exceptions(environment));
        // curl reads the lower-case one alone; some read only the other.
        [
            ("COUNTERSIGN_URL", url.clone()),
            ("HTTP_PROXY", url.clone()),
            ("http_proxy", url),
            ("NO_PROXY", except.clone()),
            ("no_proxy", except),
        ]
    }

    fn url(&self, listener: SocketAddr) -> String {
        let ip = match listener.ip() {
            IpAddr::V4(ip) => IpAddr::V4(if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { ip }),
            IpAddr::V6(ip) => IpAddr::V6(if ip.is_unspecified() { Ipv6Addr::LOCALHOST } else { ip }),
        };
        let userinfo = match &self.token {
            Some(LocalSecret::Fixed(token)) => format!("x:{}@", encoded(token)),
            Some(LocalSecret::File(_)) | None => String::new(),
        };
        format!("{}://{userinfo}{}", self.scheme, SocketAddr::new(ip, listener.port()))
    }
}

/// What goes past the proxy: all that did, the program's neighbours, and where an AWS SDK finds its own credentials.
fn exceptions(environment: &Environment) -> String {
    let filled = |name| environment.get(name).filter(|value| !value.is_empty());
    let mut list = filled("no_proxy").or_else(|| filled("NO_PROXY")).unwrap_or_default().to_owned();
    for host in LOCAL.into_iter().chain(METADATA) {
        if !list.split(',').any(|item| item.trim() == host) {
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(host);
        }
    }
    list
}

fn encoded(token: &Secret) -> String {
    utf8_percent_encode(token.expose(), NOT_UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_back_to_the_listener() {
        let front = |scheme, token: Option<&str>| Front { scheme, token: token.map(|t| LocalSecret::Fixed(t.into())) };
        for (front, listener, url) in [
            (front("http", None), "127.0.0.1:8080", "http://127.0.0.1:8080"),
            (front("https", None), "[::]:1", "https://[::1]:1"),
            (front("http", Some("a/b@c")), "0.0.0.0:80", "http://x:a%2Fb%40c@127.0.0.1:80"),
        ] {
            assert_eq!(front.url(listener.parse().unwrap()), url);
        }
    }

    #[test]
    fn what_went_past_a_proxy_still_does() {
        let metadata = METADATA.join(",");
        for (variables, list) in [
            (vec![], format!("localhost,127.0.0.1,::1,{metadata}")),
            (
                vec![("NO_PROXY", "corp.example, localhost")],
                format!("corp.example, localhost,127.0.0.1,::1,{metadata}"),
            ),
            (vec![("no_proxy", "*"), ("NO_PROXY", "b")], format!("*,localhost,127.0.0.1,::1,{metadata}")),
        ] {
            let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(exceptions(&Environment::new(variables)), list);
        }
    }
}
