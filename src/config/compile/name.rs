//! Host names, as in `host`, `allowed_hosts`, `connect_to`, `server_name` and URLs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Context, path};
use crate::config::read::{At, Text};

/// Why a text is no host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NameError {
    #[error("is empty")]
    Empty,
    #[error("is a URL, and must be a host name alone")]
    Url,
    #[error("has a port, and must be a host name alone")]
    Port,
    #[error("has a wildcard; names are compared whole")]
    Wildcard,
    #[error("has a character that no host name has: '{}'", path::shown(*.0))]
    Character(char),
    #[error("has an empty part, or one of more than 63 characters")]
    Label,
    #[error("has more than 253 characters")]
    Long,
    #[error("looks like an IPv4 address, and is none")]
    NotIpv4,
    #[error("is not an IPv6 address in brackets")]
    NotIpv6,
}

/// A host name or address in lower case, without brackets.
///
/// Stricter than URLs are: underscores and hyphens pass anywhere, but nothing that needs an escape.
pub(super) fn parse(text: &str) -> Result<String, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.contains('/') {
        return Err(NameError::Url);
    }
    if let Some(address) = text.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or_else(|| match address.rsplit_once("]:") {
            Some(_) => NameError::Port,
            None => NameError::NotIpv6,
        })?;
        return address.parse::<Ipv6Addr>().map(|address| address.to_string()).map_err(|_not_ipv6| NameError::NotIpv6);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    if text.contains(':') {
        return Err(NameError::Port);
    }
    if text.contains('*') {
        return Err(NameError::Wildcard);
    }
    let name = text.to_ascii_lowercase();
    if let Some(wrong) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')) {
        return Err(NameError::Character(wrong));
    }
    if name.len() > 253 {
        return Err(NameError::Long);
    }
    if name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err(NameError::Label);
    }
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if numeric && name.parse::<Ipv4Addr>().is_err() {
        return Err(NameError::NotIpv4);
    }
    Ok(name)
}

/// A Host name that callers use: an IPv6 address keeps its brackets, as it has them in a Host header.
pub(super) fn host(key: &str, name: &At<Text>, context: &mut Context<'_>) -> Option<String> {
    match parse(&name.value) {
        Ok(name) if name.contains(':') => Some(format!("[{name}]")),
        Ok(name) => Some(name),
        Err(error) => {
            let problem = context.problems.error(name.span, format!("a name in `{key}` {error}"));
            problem.help(if matches!(error, NameError::Url | NameError::Port) {
                "write it as in \"orders.local\"; the port of a Host header is not compared"
            } else {
                "write it as in \"orders.local\""
            });
            None
        }
    }
}

/// All of a list of Host names.
pub(super) fn hosts(key: &str, names: &[At<Text>], context: &mut Context<'_>) -> Vec<String> {
    names.iter().filter_map(|name| host(key, name, context)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_cased_and_addresses_normalised() {
        for (text, name) in [
            ("Orders.Local", "orders.local"),
            ("a_b-c.example", "a_b-c.example"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("[0:0::1]", "::1"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(name), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_says_why() {
        for (text, error) in [
            ("", NameError::Empty),
            ("https://a", NameError::Url),
            ("a:80", NameError::Port),
            ("[::1]:80", NameError::Port),
            ("[::1", NameError::NotIpv6),
            ("*.example", NameError::Wildcard),
            ("a b", NameError::Character(' ')),
            ("bücher.example", NameError::Character('ü')),
            ("a..b", NameError::Label),
            ("a.", NameError::Label),
            ("256.1.1.1", NameError::NotIpv4),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(parse(&"a.".repeat(130)), Err(NameError::Long));
    }
}
