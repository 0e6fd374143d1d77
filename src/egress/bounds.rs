//! Where the word of a caller alone must not lead: to this machine, its link, the metadata of its cloud.
//!
//! What the config names may be anywhere; this is for hosts that callers name (SECURITY.md). An address is judged once
//! it is known, and that very one is dialled: a name server that changes its mind meanwhile changes nothing. Imports
//! nothing of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services outside the link-local blocks: AWS over IPv6 (instance, and Pod Identity), Google's, and those of
/// Azure, Alibaba and Oracle.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];

/// Who has named the place that is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The config: it may be anywhere.
    Config,
    /// A caller: not where [`is_off_limits`] says so.
    Caller,
}

/// Whether a caller may not be led to `address`: loopback, link-local, unspecified, multicast, reserved or metadata, in
/// any of the forms in which IPv6 writes IPv4. Private networks are the caller's own and not among them.
pub fn is_off_limits(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_off_limits_v4(address),
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || METADATA_V6.contains(&address)
                || embedded(address).is_some_and(is_off_limits_v4)
        }
    }
}

fn is_off_limits_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // 0.0.0.0/8 is this machine to Linux; 240.0.0.0/4 is reserved, with the broadcast address at its end.
    first == 0
        || first >= 240
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || METADATA_V4.contains(&address)
}

/// The IPv4 address that a gateway would make of this one: NAT64 (RFC 6052, and RFC 8215 as it is mostly used), 6to4
/// (RFC 3056), or the old compatible form.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let ([0x64, 0xff9b, 0, 0, 0, 0, high, low]
    | [0x64, 0xff9b, 1, .., high, low]
    | [0, 0, 0, 0, 0, 0, high, low]
    | [0x2002, high, low, ..]) = address.segments()
    else {
        return None;
    };
    Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

/// The same for a host as it is written (lower case, no brackets), before anybody looks it up: `localhost`, an address that
/// is off limits, or one in a spelling that readers differ about (`127.1`, `0x7f.0.0.1`, `2130706433`).
///
/// Where another proxy looks names up, this is all that is known of them here.
pub fn is_name_off_limits(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    if let Ok(address) = host.parse::<IpAddr>() {
        return is_off_limits(address);
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    // What ends in a number is an address or nothing (WHATWG URL, 3.5).
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    is_number || last == "localhost" || host.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_its_link_and_metadata_are_off_limits_in_every_form() {
        for address in [
            "127.0.0.1",
            "127.255.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.170.2",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_off_limits(address.parse().unwrap()), "{address}");
            assert!(is_name_off_limits(address), "{address}");
        }
        for address in
            ["10.0.0.1", "172.16.0.1", "192.168.1.1", "3.120.1.1", "2600:9000::1", "fd12::1", "64:ff9b::a00:1"]
        {
            assert!(!is_off_limits(address.parse().unwrap()), "{address}");
            assert!(!is_name_off_limits(address), "{address}");
        }
    }

    #[test]
    fn names_that_readers_differ_about_are_off_limits() {
        for host in [
            "localhost",
            "localhost.",
            "api.localhost",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "0x7f000001",
            "0177.0.0.1",
            "127.0.0.1.",
            "017700000001",
            "1.2.3.4.5",
            "::1%lo",
            "",
        ] {
            assert!(is_name_off_limits(host), "{host}");
        }
        for host in ["api.example", "127.0.0.1.nip.io", "localhost.example", "0x7f.example", "a1"] {
            assert!(!is_name_off_limits(host), "{host}");
        }
    }
}
