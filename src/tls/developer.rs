//! A developer's own certificate authority: made here, and judged here before it is used.
//!
//! Whoever has its key can pretend to be a host towards programs that trust it, so one that we make can vouch for the
//! hosts of the routes and for nothing else (name constraints, RFC 5280 4.2.1.10). Imports nothing else of ours.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::{TlsError, certificates};

/// So long it lasts: the stores that trust it are gone through once a year.
pub const LIFE: Duration = Duration::from_hours(365 * 24);
/// Clocks of machines that look at it may be this much behind.
const LEEWAY: Duration = Duration::from_hours(1);

/// A new authority, in PEM.
pub struct New {
    /// Its certificate, for everybody.
    pub certificate: String,
    /// Its private key, for its owner.
    pub key: Zeroizing<String>,
    /// When it ends.
    pub ends: SystemTime,
}

/// Makes one, with an ECDSA P-256 key, that can vouch for `hosts` (names with those under them, and addresses) and nothing
/// else for [`LIFE`] from `now` on.
///
/// # Errors
/// [`TlsError::Minting`], when a host cannot be written into a certificate.
pub fn create(hosts: &[String], now: SystemTime) -> Result<New, TlsError> {
    let failed = |source| TlsError::Minting { host: hosts.join(", "), source };
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    // Two of them in one store must be told apart.
    let name = format!("countersign developer CA {:08x}", fastrand::u32(..));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(constraints(hosts));
    let ends = now + LIFE;
    (params.not_before, params.not_after) = ((now - LEEWAY).into(), ends.into());
    let certificate = params.self_signed(&key).map_err(failed)?.pem();
    Ok(New { certificate, key: Zeroizing::new(key.serialize_pem()), ends })
}

/// What is not permitted of a kind of names is forbidden, but only where one of that kind is permitted; so what is not
/// asked for at all is excluded by name.
fn constraints(hosts: &[String]) -> NameConstraints {
    let (mut names, mut v4, mut v6) = (Vec::new(), Vec::new(), Vec::new());
    for host in hosts {
        match host.parse() {
            Ok(IpAddr::V4(address)) => v4.push(CidrSubnet::V4(address.octets(), [0xff; 4])),
            Ok(IpAddr::V6(address)) => v6.push(CidrSubnet::V6(address.octets(), [0xff; 16])),
            Err(_) => names.push(GeneralSubtree::DnsName(host.clone())),
        }
    }
    let mut excluded_subtrees = Vec::new();
    if v4.is_empty() {
        excluded_subtrees.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
    }
    if v6.is_empty() {
        excluded_subtrees.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    if names.is_empty() {
        // The empty name is all of them.
        excluded_subtrees.push(GeneralSubtree::DnsName(String::new()));
    }
    let addresses = v4.into_iter().chain(v6).map(GeneralSubtree::IpAddress);
    NameConstraints { permitted_subtrees: names.into_iter().chain(addresses).collect(), excluded_subtrees }
}

/// What the certificate of an authority says of itself.
#[derive(Clone, Debug)]
pub struct Standing {
    /// When it begins to count.
    pub begins: SystemTime,
    /// When it ends.
    pub ends: SystemTime,
    /// Whether it may vouch for others at all.
    pub is_authority: bool,
    permitted: Vec<Subtree>,
    excluded: Vec<Subtree>,
}

/// Names that a constraint is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subtree {
    /// This name and all under it; empty: all.
    Name(String),
    /// Address and mask, of one length.
    Network(Vec<u8>, Vec<u8>),
}

/// A host that a certificate may be about.
#[derive(Clone, Copy, Debug)]
enum Host<'h> {
    Name(&'h str),
    Address(&'h [u8]),
}

impl Standing {
    /// Reads the first certificate of a PEM file.
    ///
    /// # Errors
    /// [`TlsError`], when there is none or it cannot be read.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let unread = || TlsError::NotAnAuthority(path.to_owned());
        let chain = certificates(path)?;
        let (_, certificate) =
            X509Certificate::from_der(chain.first().ok_or_else(unread)?).map_err(|_malformed| unread())?;
        let constraints = certificate.name_constraints().map_err(|_malformed| unread())?.map(|found| found.value);
        let all = |subtrees: Option<&Vec<x509_parser::extensions::GeneralSubtree<'_>>>| {
            subtrees.into_iter().flatten().filter_map(|subtree| Subtree::read(&subtree.base)).collect()
        };
        let time = |at: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap_or_default());
        let validity = certificate.validity();
        let may_sign =
            certificate.key_usage().map_err(|_malformed| unread())?.is_none_or(|usage| usage.value.key_cert_sign());
        Ok(Self {
            begins: time(validity.not_before.timestamp()),
            ends: time(validity.not_after.timestamp()),
            is_authority: certificate.is_ca() && may_sign,
            permitted: all(constraints.and_then(|found| found.permitted_subtrees.as_ref())),
            excluded: all(constraints.and_then(|found| found.excluded_subtrees.as_ref())),
        })
    }

    /// Whether it is kept from vouching for every name there is.
    pub fn is_constrained(&self) -> bool {
        self.permitted.iter().chain(&self.excluded).any(|subtree| matches!(subtree, Subtree::Name(_)))
    }

    /// Whether it can vouch for `host`: lower case, no brackets.
    pub fn covers(&self, host: &str) -> bool {
        let (v4, v6);
        let host = match host.parse() {
            Ok(IpAddr::V4(address)) => {
                v4 = address.octets();
                Host::Address(&v4)
            }
            Ok(IpAddr::V6(address)) => {
                v6 = address.octets();
                Host::Address(&v6)
            }
            Err(_) => Host::Name(host),
        };
        let mut permitted = self.permitted.iter().filter(|subtree| subtree.is_about(host)).peekable();
        let is_permitted = permitted.peek().is_none() || permitted.any(|subtree| subtree.holds(host));
        is_permitted && !self.excluded.iter().any(|subtree| subtree.holds(host))
    }
}

impl Subtree {
    fn read(base: &GeneralName<'_>) -> Option<Self> {
        if let GeneralName::DNSName(name) = base {
            return Some(Self::Name(name.trim_start_matches('.').to_ascii_lowercase()));
        }
        let GeneralName::IPAddress(bytes) = base else { return None };
        let (address, mask) = bytes.split_at_checked(bytes.len() / 2)?;
        Some(Self::Network(address.to_vec(), mask.to_vec()))
    }

    fn is_about(&self, host: Host<'_>) -> bool {
        match (self, host) {
            // An address of the other length is an address all the same (RFC 5280 4.2.1.10).
            (Self::Name(_), Host::Name(_)) | (Self::Network(..), Host::Address(_)) => true,
            (Self::Name(_), Host::Address(_)) | (Self::Network(..), Host::Name(_)) => false,
        }
    }

    fn holds(&self, host: Host<'_>) -> bool {
        match (self, host) {
            (Self::Name(name), Host::Name(host)) => {
                let front = host.strip_suffix(name.as_str());
                front.is_some_and(|front| name.is_empty() || front.is_empty() || front.ends_with('.'))
            }
            (Self::Network(network, mask), Host::Address(address)) => {
                let pairs = network.iter().zip(mask).zip(address);
                network.len() == address.len() && pairs.into_iter().all(|((n, m), a)| n & m == a & m)
            }
            (Self::Name(_), Host::Address(_)) | (Self::Network(..), Host::Name(_)) => false,
        }
    }
}

impl std::fmt::Debug for New {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("New").field("ends", &self.ends).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(hosts: &[&str]) -> Standing {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, create(&hosts, now).unwrap().certificate).unwrap();
        let standing = Standing::read(&path).unwrap();
        assert!(standing.is_authority && standing.is_constrained());
        assert_eq!((standing.begins, standing.ends), (now - LEEWAY, now + LIFE));
        standing
    }

    #[test]
    fn what_is_made_vouches_for_its_hosts_alone() {
        let names = standing(&["api.example", "orders.local"]);
        for host in ["api.example", "v2.api.example", "orders.local"] {
            assert!(names.covers(host), "{host}");
        }
        for host in ["example", "xapi.example", "api.example.evil.test", "evil.test", "127.0.0.1", "::1"] {
            assert!(!names.covers(host), "{host}");
        }
        let addresses = standing(&["10.0.0.1", "fd12::1"]);
        assert!(addresses.covers("10.0.0.1") && addresses.covers("fd12::1"));
        for host in ["10.0.0.2", "fd12::2", "api.example"] {
            assert!(!addresses.covers(host), "{host}");
        }
    }
}
