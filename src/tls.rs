//! TLS: which roots are trusted towards upstreams and token endpoints, which certificates are shown to whom.
//!
//! There is one crypto provider in the process (aws-lc-rs) and it is passed explicitly; certificate checks cannot be
//! switched off. Imports nothing of ours.

pub mod developer;
pub mod minting;
pub mod serving;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, digest};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// What distinguishes one TLS client configuration from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientSettings {
    /// PEM file with roots that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key shown to a server that asks (mutual TLS of a custom domain).
    pub identity: Option<Identity>,
    /// Whether HTTP/2 is offered.
    pub http2: Http2,
}

/// A certificate chain and its private key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Whether HTTP/2 is offered in the TLS handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Http2 {
    /// Offered; the server chooses by ALPN.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Never,
}

/// A TLS configuration that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file is missing, unreadable or malformed.
    #[error("reading {what} from {}", path.display())]
    Pem {
        /// What was expected in the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A PEM file has no certificate in it.
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// A certificate or key that rustls refuses.
    #[error("using {}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// Neither the system nor the config gave a root certificate.
    #[error(
        "no root certificates: the system has none (install ca-certificates or set SSL_CERT_FILE) and no ca_file is configured"
    )]
    NoRoots,
    /// A certificate that cannot be read as an authority's.
    #[error("{} is not the certificate of an authority", .0.display())]
    NotAnAuthority(PathBuf),
    /// A key of a kind that certificates are not signed with here.
    #[error("{} holds a key that cannot sign certificates", .0.display())]
    NotASigner(PathBuf),
    /// A host that cannot be written into a certificate.
    #[error("making a certificate for \"{host}\"")]
    Minting {
        /// The host, or all of them.
        host: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The provider lacks the protocol versions we ask for; cannot happen with the provider we ship.
    #[error("setting up TLS 1.2 and 1.3")]
    Versions(#[source] rustls::Error),
}

/// What the files of [`ClientSettings`] held at one time; equal if they held the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// The system's root certificates, read once: 145 of them take 3 ms, and every upstream shares them.
#[derive(Clone, Debug)]
pub struct SystemRoots(Arc<RootCertStore>);

impl TlsError {
    /// What is wrong with the file, as the end of a sentence that begins with it. Never quotes the file, as the sources'
    /// own texts do: it may be a private key.
    pub fn reason(&self) -> String {
        match self {
            Self::Pem { source: pem::Error::Io(error), .. } => format!("cannot be read: {error}"),
            Self::Pem { what: "a private key", source: pem::Error::NoItemsFound, .. } => {
                "holds no private key".to_owned()
            }
            Self::NoCertificate(_) => "holds no certificate".to_owned(),
            Self::NotAnAuthority(_) => "is not the certificate of an authority".to_owned(),
            Self::NotASigner(_) => "is not a key that can sign certificates".to_owned(),
            Self::Minting { host, source } => format!("cannot vouch for \"{host}\": {source}"),
            Self::Pem { .. } => "is not a whole PEM file".to_owned(),
            Self::Unusable { source: rustls::Error::InconsistentKeys(_), .. } => {
                "does not belong to its private key".to_owned()
            }
            Self::Unusable { source, .. } | Self::Versions(source) => format!("cannot be used: {source}"),
            Self::NoRoots => "leaves no root certificate".to_owned(),
        }
    }
}

impl ClientSettings {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|identity| [&identity.cert, &identity.key]);
        self.ca_file.iter().chain(identity).map(PathBuf::as_path)
    }

    /// What its files hold now. Blocks while it reads them.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(self.files())
    }

    /// Reads the files and throws them away: whether a [`ClientConfig`] could be made of them.
    ///
    /// # Errors
    /// [`TlsError`], of the first file that cannot be used.
    pub fn check(&self) -> Result<(), TlsError> {
        if let Some(path) = &self.ca_file {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|source| TlsError::Unusable { path: path.clone(), source })?;
            }
        }
        if let Some(Identity { cert, key }) = &self.identity {
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            rustls::sign::CertifiedKey::from_der(certificates(cert)?, private_key(key)?, &provider)
                .map_err(|source| TlsError::Unusable { path: cert.clone(), source })?;
        }
        Ok(())
    }
}

impl SystemRoots {
    /// Reads the roots of the operating system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`; Mozilla's, if those are empty
    /// and the `bundled-roots` feature is on.
    pub fn load() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a root certificate of the system could not be read");
        }
        let mut roots = RootCertStore::empty();
        let (_, unusable) = roots.add_parsable_certificates(found.certs);
        if unusable > 0 {
            tracing::debug!(unusable, "root certificates of the system that rustls does not take");
        }
        #[cfg(feature = "bundled-roots")]
        if roots.is_empty() {
            tracing::info!("the system has no root certificates; Mozilla's bundled ones are used");
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Self(Arc::new(roots))
    }

    /// A client configuration with `alpn` as its protocols, most wanted first.
    ///
    /// # Errors
    /// [`TlsError`] when a file cannot be used or no root is left.
    pub fn client_config(&self, settings: &ClientSettings, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
        let mut roots = (*self.0).clone();
        if let Some(path) = &settings.ca_file {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|source| TlsError::Unusable { path: path.clone(), source })?;
            }
        }
        if roots.is_empty() {
            return Err(TlsError::NoRoots);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?
            .with_root_certificates(roots);
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(certificates(&identity.cert)?, private_key(&identity.key)?)
                .map_err(|source| TlsError::Unusable { path: identity.cert.clone(), source })?,
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }
}

/// What `files` hold now. Blocks while it reads them.
pub fn fingerprint<'a>(files: impl Iterator<Item = &'a Path>) -> Fingerprint {
    let mut all = Context::new(&SHA256);
    for file in files {
        match std::fs::read(file).map(zeroize::Zeroizing::new) {
            Ok(content) => all.update(digest(&SHA256, &content).as_ref()),
            // One that is not there differs from one of any content.
            Err(_) => all.update(&[0]),
        }
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(all.finish().as_ref());
    Fingerprint(sum)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Pem { what: "certificates", path: path.to_owned(), source };
    let found = CertificateDer::pem_file_iter(path).map_err(unreadable)?;
    let chain = found.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Pem {
        what: "a private key",
        path: path.to_owned(),
        source,
    })
}
