//! Sockets that whoever started us has bound already, as systemd does: the port is open before we run and while we restart.
//!
//! Each takes the place of the address or path in the config that it is bound to; what listens where is still the config's
//! to say. Imports nothing of ours.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
#[cfg(unix)]
use std::path::Path;

/// A socket that listens.
#[derive(Debug)]
pub enum Socket {
    /// On an address.
    Tcp(TcpListener),
    /// On a path.
    #[cfg(unix)]
    Unix(UnixListener),
}

/// Sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Handed(Vec<Socket>);

/// A socket that the config does not know: callers would connect, and nobody would answer.
#[derive(Debug, thiserror::Error)]
#[error("a socket that listens on {0} was handed over, and the config does not listen there")]
pub struct Unwanted(String);

impl Handed {
    /// These sockets.
    pub fn new(sockets: Vec<Socket>) -> Self {
        Self(sockets)
    }

    /// The one that listens on `address`.
    pub fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.0.iter().position(|socket| match socket {
            Socket::Tcp(socket) => socket.local_addr().is_ok_and(|own| own == address),
            #[cfg(unix)]
            Socket::Unix(_) => false,
        })?;
        match self.0.swap_remove(at) {
            Socket::Tcp(socket) => Some(socket),
            #[cfg(unix)]
            Socket::Unix(_) => None,
        }
    }

    /// The one that listens on `path`.
    #[cfg(unix)]
    pub fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let at = self.0.iter().position(|socket| match socket {
            Socket::Tcp(_) => false,
            Socket::Unix(socket) => socket.local_addr().is_ok_and(|own| own.as_pathname() == Some(path)),
        })?;
        match self.0.swap_remove(at) {
            Socket::Tcp(_) => None,
            Socket::Unix(socket) => Some(socket),
        }
    }

    /// Ends the taking.
    ///
    /// # Errors
    /// [`Unwanted`], if one is left.
    pub fn finish(self) -> Result<(), Unwanted> {
        self.0.first().map_or(Ok(()), |left| Err(Unwanted(left.to_string())))
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(socket) => match socket.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("no address"),
            },
            #[cfg(unix)]
            Self::Unix(socket) => match socket.local_addr().ok().as_ref().and_then(|own| own.as_pathname()) {
                Some(path) => path.display().fmt(f),
                None => f.write_str("no path"),
            },
        }
    }
}
