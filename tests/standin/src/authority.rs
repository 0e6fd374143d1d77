//! A certificate authority of the test's own: it is trusted by nobody but those who are given its PEM.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority with a fresh ECDSA P-256 key.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a key and a self-signed certificate.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "countersign stand-in authority");
        let key = KeyPair::generate().expect("a P-256 key can be made");
        let certificate = params.self_signed(&key).expect("a key signs its own certificate");
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// The authority's certificate, for `ca_file`.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes the certificate to `ca.pem` in `dir`, and gives the file's path.
    pub fn write_pem(&self, dir: &Path) -> PathBuf {
        let path = dir.join("ca.pem");
        std::fs::write(&path, &self.pem).expect("the test's directory can be written");
        path
    }

    /// A certificate for these names (exact, `*.` or IP addresses), good for serving and for client authentication:
    /// certificate and key, both PEM.
    pub fn issue(&self, names: &[&str]) -> (String, String) {
        let (certificate, key) = self.leaf(names);
        (certificate.pem(), key.serialize_pem())
    }

    /// A server that shows a certificate for these names and offers these protocols; TLS 1.2 and 1.3.
    pub fn server_config(&self, names: &[&str], alpn: &[&[u8]]) -> Arc<ServerConfig> {
        Self::serving(self.leaf(names), alpn)
    }

    /// The same with a certificate that is good in these years alone.
    pub fn server_config_of(&self, names: &[&str], years: Range<i32>) -> Arc<ServerConfig> {
        let (mut params, key) = Self::params(names);
        params.not_before = rcgen::date_time_ymd(years.start, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.end, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs what it is given");
        Self::serving((certificate, key), &[])
    }

    /// The same with a certificate that is good for clients alone.
    pub fn config_for_clients(&self, names: &[&str]) -> Arc<ServerConfig> {
        let (mut params, key) = Self::params(names);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs what it is given");
        Self::serving((certificate, key), &[])
    }

    fn serving((certificate, key): (rcgen::Certificate, KeyPair), alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the key belongs to the certificate");
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Arc::new(config)
    }

    fn leaf(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let (params, key) = Self::params(names);
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs what it is given");
        (certificate, key)
    }

    fn params(names: &[&str]) -> (CertificateParams, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the test names hosts and addresses");
        params.distinguished_name.push(DnType::CommonName, "countersign stand-in");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a P-256 key can be made");
        (params, key)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}
