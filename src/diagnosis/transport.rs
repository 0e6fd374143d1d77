//! Name lookup, connection, TLS: what an error beneath an exchange comes to.
//!
//! Follows the chain of sources, whose texts and types are the operating system's, rustls' and the HTTP clients'.
//! Imports nothing of ours.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, Error as Tls};

use super::{Cause, Diagnosis};

/// What an error and all that lies beneath it come to; `None` where nothing of it is known.
pub fn diagnose(error: &(dyn Error + 'static)) -> Option<Diagnosis> {
    let mut chain = Vec::new();
    collect(error, &mut chain);
    // The deepest knows most, but a type says more than any text.
    let by_type = chain.iter().rev().find_map(|error| error.downcast_ref::<Tls>().map(tls));
    by_type
        .or_else(|| chain.iter().find_map(|error| in_words(&error.to_string())))
        .or_else(|| chain.iter().rev().find_map(|error| error.downcast_ref::<io::Error>().and_then(connection)))
}

/// A failed handshake. What broke it off is told by the type, or by where it broke.
pub fn handshake(error: &io::Error) -> Diagnosis {
    let mut chain = Vec::new();
    collect(error, &mut chain);
    let by_type = chain.iter().rev().find_map(|error| error.downcast_ref::<Tls>().map(tls));
    let kinds = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    by_type.unwrap_or_else(|| {
        if kinds.contains(&error.kind()) {
            Diagnosis::of(Cause::TlsBrokenOff).or(Cause::TlsNotSpoken)
        } else {
            Diagnosis::of(Cause::TlsFailed)
        }
    })
}

/// A name lookup that failed.
pub fn lookup(error: &io::Error) -> Diagnosis {
    let words = error.to_string();
    if words.contains("emporary failure") || words.contains("timed out") || words.contains("ry again") {
        Diagnosis::of(Cause::NameServerSilent).or(Cause::NameUnknown)
    } else {
        Diagnosis::of(Cause::NameUnknown).or(Cause::NameServerSilent)
    }
}

/// A connection that was not made, or broke.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is open")]
pub fn connection(error: &io::Error) -> Option<Diagnosis> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => Diagnosis::of(Cause::PortClosed),
        io::ErrorKind::TimedOut => Diagnosis::of(Cause::ConnectTimeout),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Diagnosis::of(Cause::NetworkUnreachable),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Diagnosis::of(Cause::ConnectionLost),
        _ => return None,
    })
}

/// An `io::Error` does not give what it wraps as its source, but the source of that.
fn collect<'a>(error: &'a (dyn Error + 'static), chain: &mut Vec<&'a (dyn Error + 'static)>) {
    /// Deeper than any chain that libraries build.
    const DEEPEST: usize = 32;
    let mut next = Some(error);
    while let Some(error) = next
        && chain.len() < DEEPEST
    {
        chain.push(error);
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
}

fn in_words(text: &str) -> Option<Diagnosis> {
    let has = |words: &str| text.contains(words);
    if has("proxy authorization required") || has("proxy authentication required") || has("407") && has("unnel") {
        Some(Diagnosis::of(Cause::ProxyCredentials))
    } else if has("unsuccessful tunnel") || has("tunnel error") {
        Some(Diagnosis::of(Cause::ProxyRefuses).or(Cause::ProxySilent))
    } else if has("emporary failure in name resolution") {
        Some(Diagnosis::of(Cause::NameServerSilent).or(Cause::NameUnknown))
    } else if has("dns error") || has("failed to lookup address") || has("not known") {
        Some(Diagnosis::of(Cause::NameUnknown).or(Cause::NameServerSilent))
    } else {
        None
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls' enums are open")]
fn tls(error: &Tls) -> Diagnosis {
    match error {
        Tls::InvalidCertificate(problem) => certificate(problem),
        Tls::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => Diagnosis::of(Cause::CertificateWanted),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied => {
                Diagnosis::of(Cause::ClientCertificateRefused).or(Cause::CertificateWanted)
            }
            AlertDescription::DecryptError => Diagnosis::of(Cause::ClientCertificateRefused).or(Cause::TlsFailed),
            AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
                Diagnosis::of(Cause::TlsVersions)
            }
            AlertDescription::HandshakeFailure => {
                Diagnosis::of(Cause::TlsVersions).or(Cause::CertificateWanted).or(Cause::TlsBrokenOff)
            }
            AlertDescription::UnrecognisedName => Diagnosis::of(Cause::NameMismatch),
            _ => Diagnosis::of(Cause::TlsFailed),
        },
        Tls::InvalidMessage(_) => Diagnosis::of(Cause::TlsNotSpoken),
        Tls::PeerIncompatible(_) => Diagnosis::of(Cause::TlsVersions),
        _ => Diagnosis::of(Cause::TlsFailed),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls' enums are open")]
fn certificate(problem: &CertificateError) -> Diagnosis {
    match problem {
        // A bad signature: one who bears the name of a trusted issuer and has another key, such as a private authority that
        // was made anew.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Diagnosis::of(Cause::IssuerUnknown),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Diagnosis::of(Cause::NameMismatch)
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Diagnosis::of(Cause::CertificateExpired),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Diagnosis::of(Cause::CertificateNotYetValid)
        }
        _ => Diagnosis::of(Cause::CertificateUnfit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("asking somebody")]
    struct Asking(#[source] io::Error);

    fn first(error: &(dyn Error + 'static)) -> Option<&'static str> {
        diagnose(error).map(|diagnosis| diagnosis.first().cause.code())
    }

    #[test]
    fn what_lies_beneath_is_found_however_it_is_wrapped() {
        let tls = |error| Asking(io::Error::new(io::ErrorKind::InvalidData, error));
        for (error, code) in [
            (tls(Tls::InvalidCertificate(CertificateError::UnknownIssuer)), "issuer-unknown"),
            (tls(Tls::InvalidCertificate(CertificateError::NotValidForName)), "name-mismatch"),
            (tls(Tls::InvalidCertificate(CertificateError::Expired)), "certificate-expired"),
            (tls(Tls::InvalidCertificate(CertificateError::NotValidYet)), "certificate-not-yet-valid"),
            (tls(Tls::InvalidCertificate(CertificateError::Revoked)), "certificate-unfit"),
            (tls(Tls::AlertReceived(AlertDescription::CertificateRequired)), "certificate-wanted"),
            (tls(Tls::AlertReceived(AlertDescription::UnknownCA)), "client-certificate-refused"),
            (tls(Tls::AlertReceived(AlertDescription::ProtocolVersion)), "tls-versions"),
            (tls(Tls::AlertReceived(AlertDescription::UnrecognisedName)), "name-mismatch"),
            (tls(Tls::InvalidMessage(rustls::InvalidMessage::InvalidContentType)), "tls-not-spoken"),
            (tls(Tls::DecryptError), "tls-failed"),
            (Asking(io::ErrorKind::ConnectionRefused.into()), "port-closed"),
            (Asking(io::ErrorKind::TimedOut.into()), "connect-timeout"),
            (Asking(io::ErrorKind::NetworkUnreachable.into()), "network-unreachable"),
            (Asking(io::ErrorKind::ConnectionReset.into()), "connection-lost"),
            (Asking(io::Error::other("unsuccessful tunnel")), "proxy-refuses"),
            (Asking(io::Error::other("proxy authorization required")), "proxy-credentials"),
            (Asking(io::Error::other("dns error: failed to lookup address information")), "name-unknown"),
            (Asking(io::Error::other("dns error: Temporary failure in name resolution")), "name-server-silent"),
        ] {
            assert_eq!(first(&error), Some(code), "{error:?}");
        }
        assert_eq!(first(&Asking(io::ErrorKind::OutOfMemory.into())), None);
        let eof = handshake(&io::ErrorKind::UnexpectedEof.into());
        assert_eq!(eof.first().cause, Cause::TlsBrokenOff);
    }
}
