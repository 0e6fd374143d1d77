//! Certificates for hosts that are not ours, minted from a developer's own authority and kept for as long as they are fresh.
//!
//! They are shown to programs that have asked us for a tunnel to a host with a route. All share one key, which is made at
//! start and leaves this process never. Imports nothing else of ours.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Identity, TlsError, certificates, private_key};

/// Most wanted first. Some offer HTTP/1.0 by its name, and nothing else.
const ALPN: [&[u8]; 3] = [b"h2", b"http/1.1", b"http/1.0"];
/// So long a certificate lasts: it is renewed by minting another.
const LIFE: Duration = Duration::from_hours(7 * 24);
/// It is renewed when less than this is left of it.
const FRESH: Duration = Duration::from_hours(24);
/// Clocks of clients may be this much behind; on one machine they are not.
const LEEWAY: Duration = Duration::from_hours(1);

/// Mints certificates.
pub struct Mint {
    path: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    /// By host; as many as have routes.
    minted: Mutex<HashMap<String, Minted>>,
}

#[derive(Clone, Debug)]
struct Minted {
    config: Arc<ServerConfig>,
    ends: SystemTime,
}

/// Shown to clients that mean its host, or do not say whom they mean.
#[derive(Debug)]
struct Shown {
    host: String,
    key: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let means_it = hello.server_name().is_none_or(|name| name.eq_ignore_ascii_case(&self.host));
        means_it.then(|| Arc::clone(&self.key))
    }
}

impl Mint {
    /// Reads the files of an authority.
    ///
    /// # Errors
    /// [`TlsError`], of the first file that cannot be used.
    pub fn try_new(authority: &Identity) -> Result<Self, TlsError> {
        let path = authority.cert.clone();
        let unusable = |_unread| TlsError::NotAnAuthority(path.clone());
        let key = private_key(&authority.key)?;
        let key = KeyPair::try_from(&key).map_err(|_unread| TlsError::NotASigner(authority.key.clone()))?;
        let chain = certificates(&authority.cert)?;
        let certificate = chain.first().ok_or_else(|| TlsError::NoCertificate(path.clone()))?;
        let issuer = Issuer::from_ca_cert_der(certificate, key).map_err(unusable)?;
        let key = KeyPair::generate().map_err(unusable)?;
        Ok(Self { path, issuer, key, minted: Mutex::default() })
    }

    /// A server configuration that shows a certificate for `host` (lower case, no brackets): TLS 1.2 and 1.3, HTTP/2 and
    /// HTTP/1. A client that names another host in its handshake gets none.
    ///
    /// # Errors
    /// [`TlsError`], when the host cannot be written into a certificate.
    pub fn server_config(&self, host: &str, now: SystemTime) -> Result<Arc<ServerConfig>, TlsError> {
        let mut minted = self.minted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Minted { config, ends }) = minted.get(host)
            && now + FRESH < *ends
            // A clock that was set back would show a certificate from the future.
            && *ends <= now + LIFE
        {
            return Ok(Arc::clone(config));
        }
        let config = self.mint(host, now)?;
        minted.insert(host.to_owned(), Minted { config: Arc::clone(&config), ends: now + LIFE });
        Ok(config)
    }

    fn mint(&self, host: &str, now: SystemTime) -> Result<Arc<ServerConfig>, TlsError> {
        let failed = |source| TlsError::Minting { host: host.to_owned(), source };
        let mut params = CertificateParams::new([host.to_owned()]).map_err(failed)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        // At most 64 characters (RFC 5280, ub-common-name), which names of hosts exceed; nobody reads it for the host.
        params.distinguished_name.push(DnType::CommonName, "countersign");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = ((now - LEEWAY).into(), (now + LIFE).into());
        let certificate = params.signed_by(&self.key, &self.issuer).map_err(failed)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let key = CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider)
            .map_err(|source| TlsError::Unusable { path: self.path.clone(), source })?;
        let shown = Shown { host: host.to_owned(), key: Arc::new(key) };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        tracing::debug!(host, "minted a certificate");
        Ok(Arc::new(config))
    }
}

impl std::fmt::Debug for Mint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mint").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::developer;

    #[test]
    fn a_certificate_is_kept_until_its_last_day() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let made = developer::create(&["api.example".to_owned()], now).unwrap();
        let authority = Identity { cert: folder.path().join("ca.pem"), key: folder.path().join("ca-key.pem") };
        std::fs::write(&authority.cert, &made.certificate).unwrap();
        std::fs::write(&authority.key, &*made.key).unwrap();
        let mint = Mint::try_new(&authority).unwrap();
        let first = mint.server_config("api.example", now).unwrap();
        let kept = |now| Arc::ptr_eq(&first, &mint.server_config("api.example", now).unwrap());
        assert!(kept(now + LIFE - FRESH - Duration::from_secs(1)));
        assert!(!kept(now + LIFE - FRESH), "it ends soon");
        assert!(!kept(now), "the clock was set back");
        assert!(!Arc::ptr_eq(&mint.server_config("a.test", now).unwrap(), &mint.server_config("b.test", now).unwrap()));
    }
}
