//! The way out: which proxy, if any, stands between this machine and a destination.
//!
//! One decision for upstreams and for token, STS, Cognito and secret calls alike, by curl's rules for the environment's
//! variables. Loopback and metadata addresses are never proxied: a credential endpoint asked through a proxy gives a
//! machine's keys away. Nothing here dials. Imports `secret`.

pub mod bounds;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The instance, ECS, EKS Pod Identity: what they serve is for this machine alone.
pub(crate) const METADATA: [&str; 5] =
    ["169.254.169.254", "fd00:ec2::254", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"];

/// An HTTP proxy that is asked to CONNECT. Prints without its credentials.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ProxyUrl {
    /// Name or address without brackets.
    pub host: String,
    /// Port; 80, if the URL had none.
    pub port: u16,
    /// `user:password`, decoded.
    credentials: Option<Secret>,
}

/// Why a text is not the URL of a proxy that can be used. Quotes nothing: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    /// `socks5://` and the like.
    #[error("names a SOCKS proxy, and only HTTP proxies can be used")]
    Socks,
    /// `https://`.
    #[error("is https://, and a proxy is spoken to in plain HTTP; what goes through it is encrypted all the same")]
    Https,
    /// Another scheme.
    #[error("has a scheme that is not http")]
    Scheme,
    /// No host, or one that no URL has.
    #[error("has no host, or one with characters that no host has")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    /// A path or query.
    #[error("has something behind the port")]
    Path,
}

impl ProxyUrl {
    /// Reads `http://user:password@host:port`; scheme, credentials, port and a slash at the end may be missing.
    ///
    /// # Errors
    /// [`ProxyUrlError`].
    pub fn parse(text: &str) -> Result<Self, ProxyUrlError> {
        let text = text.trim();
        let rest = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" => rest,
                "https" => return Err(ProxyUrlError::Https),
                scheme if scheme.starts_with("socks") => return Err(ProxyUrlError::Socks),
                _ => return Err(ProxyUrlError::Scheme),
            },
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A password may hold an `@` by mistake; the last one ends it.
        let (credentials, authority) =
            rest.rsplit_once('@').map_or((None, rest), |(user, authority)| (Some(user), authority));
        if authority.contains(['/', '?', '#']) {
            return Err(ProxyUrlError::Path);
        }
        let (host, port) = split_port(authority).ok_or(ProxyUrlError::Port)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        // A name with a colon is an address, and one whose last part is a number is one too (WHATWG URL 3.5): what looks
        // like an address and is none would be looked up, or be no URL to the next reader.
        let looks_like_ipv4 =
            host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        let is_host = match (authority.starts_with('[') || host.contains(':'), looks_like_ipv4) {
            (true, _) => host.parse::<Ipv6Addr>().is_ok(),
            (false, true) => host.parse::<Ipv4Addr>().is_ok(),
            (false, false) => true,
        };
        if host.is_empty() || !host.bytes().all(allowed) || !is_host {
            return Err(ProxyUrlError::Host);
        }
        let credentials = credentials.filter(|user| !user.is_empty()).map(decoded);
        Ok(Self { host: host.to_ascii_lowercase(), port: port.unwrap_or(80), credentials })
    }

    /// The value of `Proxy-Authorization`, if the URL has credentials (RFC 7617).
    pub fn authorization(&self) -> Option<Secret> {
        let credentials = self.credentials.as_ref()?;
        let encoded = Zeroizing::new(STANDARD.encode(credentials.expose()));
        Some(Secret::new(format!("Basic {}", encoded.as_str())))
    }

    /// User and password, if the URL has them.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        self.credentials.as_ref()?.expose().split_once(':')
    }

    /// The URL without credentials.
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("http://[{host}]:{port}") } else { format!("http://{host}:{port}") }
    }
}

/// Percent-encoding undone; a user without a password has an empty one.
fn decoded(credentials: &str) -> Secret {
    let decode = |text: &str| Zeroizing::new(percent_decode_str(text).decode_utf8_lossy().into_owned());
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    Secret::new(format!("{}:{}", decode(user).as_str(), decode(password).as_str()))
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}

/// Which proxy leads where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    proxy: Option<ProxyUrl>,
    except: NoProxy,
}

impl Egress {
    /// No proxy for anything.
    pub fn direct() -> Self {
        Self::default()
    }

    /// `proxy` for everything that is not `except`ed.
    pub fn through(proxy: ProxyUrl, except: NoProxy) -> Self {
        Self { proxy: Some(proxy), except }
    }

    /// The proxy on all ways but the exceptions, and whether there are any.
    pub fn proxy(&self) -> Option<(&ProxyUrl, bool)> {
        Some((self.proxy.as_ref()?, self.except != NoProxy::default()))
    }

    /// The proxy on the way to `host` (no brackets) and `port`, if any.
    pub fn to(&self, host: &str, port: u16) -> Option<&ProxyUrl> {
        let proxy = self.proxy.as_ref()?;
        let own = is_loopback(host.trim_end_matches('.')) || METADATA.contains(&host);
        (!own && !self.except.covers(host, port)).then_some(proxy)
    }
}

/// `NO_PROXY`: destinations that are reached without a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy {
    all: bool,
    entries: Vec<Entry>,
    /// Items that are none of what can be written.
    unread: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    what: What,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// A name and all names under it.
    Name(String),
    /// An address block; a single address is one of full length.
    Block(IpAddr, u32),
}

impl NoProxy {
    /// Reads a list with commas or spaces: names (with or without a dot or `*.` in front; names under them are meant too),
    /// addresses, CIDR blocks, each with or without a port, or `*` for everything. What is none of these covers nothing.
    pub fn parse(text: &str) -> Self {
        let mut list = Self::default();
        for item in text.split([',', ' ', '\t']).filter(|item| !item.is_empty()) {
            if item == "*" {
                list.all = true;
            } else {
                match entry(item) {
                    Some(entry) => list.entries.push(entry),
                    None => list.unread.push(item.to_owned()),
                }
            }
        }
        list
    }

    /// The items that cover nothing because they cannot be read.
    pub fn unread(&self) -> &[String] {
        &self.unread
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        let address: Option<IpAddr> = host.parse().ok();
        self.all
            || self.entries.iter().any(|entry| {
                entry.port.is_none_or(|own| own == port)
                    && match (&entry.what, address) {
                        (What::Name(name), None) => host
                            .strip_suffix(name.as_str())
                            .is_some_and(|front| front.is_empty() || front.ends_with('.')),
                        (What::Block(block, length), Some(address)) => is_inside(address, *block, *length),
                        (What::Name(_), Some(_)) | (What::Block(..), None) => false,
                    }
            })
    }
}

fn entry(item: &str) -> Option<Entry> {
    if let Some((address, length)) = item.split_once('/') {
        let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
        let length = length.parse().ok().filter(|length| *length <= bits(address).1)?;
        return Some(Entry { what: What::Block(address, length), port: None });
    }
    let whole = |address: IpAddr| What::Block(address, bits(address).1);
    if let Ok(address) = item.parse::<IpAddr>() {
        return Some(Entry { what: whole(address), port: None });
    }
    let (host, port) = split_port(item)?;
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(Entry { what: whole(address), port });
    }
    let name = host.strip_prefix('*').unwrap_or(host).trim_matches('.').to_ascii_lowercase();
    (!name.is_empty()).then_some(Entry { what: What::Name(name), port })
}

/// `host`, `host:port`, `[address]:port`; without brackets. `None` for a port that is none.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |digits: &str| digits.parse().ok().filter(|port: &u16| *port > 0);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, behind) = rest.split_once(']')?;
        return match behind.strip_prefix(':') {
            None if behind.is_empty() => Some((host, None)),
            None => None,
            Some(digits) => Some((host, Some(port(digits)?))),
        };
    }
    match text.rsplit_once(':') {
        Some((host, digits)) if !host.contains(':') => Some((host, Some(port(digits)?))),
        Some(_) | None => Some((text, None)),
    }
}

/// An address as a number, and how many bits it has. IPv4 in IPv6 is IPv4.
fn bits(address: IpAddr) -> (u128, u32) {
    match address.to_canonical() {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

fn is_inside(address: IpAddr, block: IpAddr, length: u32) -> bool {
    let ((address, size), (block, block_size)) = (bits(address), bits(block));
    size == block_size && (length == 0 || (address ^ block) >> (size - length) == 0)
}

/// Whether `host` (no brackets) can only mean this machine: `localhost`, a name under `.localhost` (RFC 6761 6.3), or a
/// loopback address.
pub fn is_loopback(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_url_is_read_in_all_its_forms() {
        for (text, address, authorization) in [
            ("http://proxy.corp:3128", "http://proxy.corp:3128", None),
            ("proxy.corp:3128", "http://proxy.corp:3128", None),
            ("HTTP://Proxy.Corp", "http://proxy.corp:80", None),
            ("http://[fd00::1]:8080/", "http://[fd00::1]:8080", None),
            ("http://ada:s3cret@proxy.corp:3128/", "http://proxy.corp:3128", Some("Basic YWRhOnMzY3JldA==")),
            ("http://ada@proxy.corp", "http://proxy.corp:80", Some("Basic YWRhOg==")),
            ("http://ad%40a:p%3Aw@proxy.corp", "http://proxy.corp:80", Some("Basic YWRAYTpwOnc=")),
            (" 10.0.0.1:3128 ", "http://10.0.0.1:3128", None),
        ] {
            let proxy = ProxyUrl::parse(text).unwrap();
            assert_eq!(proxy.to_string(), address, "{text}");
            assert_eq!(proxy.authorization().as_ref().map(Secret::expose), authorization, "{text}");
            assert!(!format!("{proxy:?}").contains("s3cret"));
        }
    }

    #[test]
    fn what_is_no_http_proxy_is_refused() {
        for (text, error) in [
            ("socks5://proxy:1080", ProxyUrlError::Socks),
            ("https://proxy:443", ProxyUrlError::Https),
            ("ftp://proxy", ProxyUrlError::Scheme),
            ("http://", ProxyUrlError::Host),
            ("http://pro xy", ProxyUrlError::Host),
            ("http://proxy:3128:3128", ProxyUrlError::Host),
            ("http://[proxy]:3128", ProxyUrlError::Host),
            ("http://10.0.0.256:3128", ProxyUrlError::Host),
            ("http://3128", ProxyUrlError::Host),
            ("http://proxy:0", ProxyUrlError::Port),
            ("http://proxy:x", ProxyUrlError::Port),
            ("http://proxy:3128/path", ProxyUrlError::Path),
        ] {
            assert_eq!(ProxyUrl::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn exceptions_follow_curl() {
        let covers = |list: &str, host: &str, port| NoProxy::parse(list).covers(host, port);
        for (list, host) in [
            ("*", "anything.test"),
            ("example.com", "example.com"),
            ("example.com", "api.example.com"),
            (".example.com", "example.com"),
            (".example.com", "API.Example.COM"),
            ("*.example.com", "api.example.com"),
            ("a.test, example.com", "example.com"),
            ("a.test example.com", "example.com"),
            ("example.com:443", "example.com"),
            ("example.com", "example.com."),
            ("10.0.0.0/8", "10.1.2.3"),
            ("10.1.2.3", "10.1.2.3"),
            ("192.168.0.0/16,fd00::/8", "fd00:ec2::1"),
            ("[fd00::1]:443", "fd00::1"),
            ("0.0.0.0/0", "8.8.8.8"),
        ] {
            assert!(covers(list, host, 443), "{list} {host}");
        }
        for (list, host) in [
            ("", "example.com"),
            ("example.com", "notexample.com"),
            ("api.example.com", "example.com"),
            ("example.com:8443", "example.com"),
            ("10.0.0.0/8", "11.1.2.3"),
            ("10.0.0.0/33", "10.0.0.1"),
            ("10.0.0.0/8", "10.example.com"),
            ("0.0.0.0/0", "fd00::1"),
            (",,", "example.com"),
        ] {
            assert!(!covers(list, host, 443), "{list} {host}");
        }
    }

    #[test]
    fn loopback_and_metadata_are_never_proxied() {
        let egress = Egress::through(ProxyUrl::parse("http://proxy.corp:3128").unwrap(), NoProxy::default());
        for host in [
            "localhost",
            "localhost.",
            "api.localhost",
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "fd00:ec2::254",
            "169.254.170.2",
            "169.254.170.23",
            "fd00:ec2::23",
        ] {
            assert!(egress.to(host, 80).is_none(), "{host}");
        }
        for host in ["abc123.execute-api.eu-west-1.amazonaws.com", "169.254.1.1", "localhost.evil.test"] {
            assert!(egress.to(host, 443).is_some(), "{host}");
        }
        assert!(Egress::direct().to("a.test", 443).is_none());
    }
}
