//! TLS towards callers: the certificate that the listeners show, taken up anew when its files change.
//!
//! Handshakes go on with the last good pair while the files do not fit together, as they do for a moment while somebody
//! replaces one after the other. Imports nothing else of ours.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, SHA256};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Identity, TlsError, certificates, private_key};

/// How often the files are looked at: two small reads, and a renewed certificate has days.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Most wanted first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate that is shown to callers.
#[derive(Debug)]
pub struct Certificate {
    identity: Identity,
    current: ArcSwap<CertifiedKey>,
    /// What the files held when they were last looked at; `None` when they could not be read.
    seen: Mutex<Option<Vec<u8>>>,
}

#[derive(Debug)]
struct Shown(Arc<Certificate>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load_full())
    }
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], of the first file that cannot be used.
    pub fn try_new(identity: Identity) -> Result<Arc<Self>, TlsError> {
        let seen = Mutex::new(content(&identity));
        let current = ArcSwap::from_pointee(load(&identity)?);
        Ok(Arc::new(Self { identity, current, seen }))
    }

    /// A server configuration that shows it: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsError::Versions`].
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(Arc::clone(self))));
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    }

    /// Looks at the files from time to time, for as long as anybody shows it.
    pub async fn follow(certificate: Weak<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(certificate) = certificate.upgrade() else { return };
            // A network file system may take its time, and other tasks must not wait for it.
            if let Err(error) = tokio::task::spawn_blocking(move || certificate.look()).await {
                tracing::error!(%error, "looking at the certificate of [proxy] tls");
            }
        }
    }

    /// Takes up what has changed. What cannot be used is said once, not at each look.
    fn look(&self) {
        let found = content(&self.identity);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == found {
                return;
            }
            *seen = found;
        }
        let file = self.identity.cert.display();
        match load(&self.identity) {
            Ok(new) => {
                self.current.store(Arc::new(new));
                tracing::info!(%file, "the certificate of [proxy] tls has changed");
            }
            Err(error) => {
                let reason = error.reason();
                tracing::warn!(%file, %error, reason, "the changed certificate of [proxy] tls cannot be used; the last one stays");
            }
        }
    }
}

fn load(Identity { cert, key }: &Identity) -> Result<CertifiedKey, TlsError> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(certificates(cert)?, private_key(key)?, &provider)
        .map_err(|source| TlsError::Unusable { path: cert.clone(), source })
}

/// A digest of both files.
fn content(Identity { cert, key }: &Identity) -> Option<Vec<u8>> {
    let mut both = Context::new(&SHA256);
    for file in [cert, key] {
        both.update(&zeroize::Zeroizing::new(std::fs::read(file).ok()?));
    }
    Some(both.finish().as_ref().to_vec())
}
