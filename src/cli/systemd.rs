//! systemd, and whoever speaks as it does: sockets that it hands over, and what it wants to be told.
//!
//! Both are in the environment, and without that nothing here does anything.

use std::io;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::app::Phase;
use crate::server::Handed;
use crate::server::handed::Socket;

/// The sockets that were handed over (`LISTEN_FDS`). To be called once, before there are threads: it takes the variables out
/// of the environment, so that no child believes that they are for it.
pub(super) fn handed() -> Result<Handed, String> {
    let mut descriptors = ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..descriptors.len() {
        let taken = match descriptors.take_tcp_listener(at) {
            Ok(socket) => socket.map(Socket::Tcp),
            Err(_) => descriptors.take_unix_listener(at).map_err(|error| not_a_listener(at, &error))?.map(Socket::Unix),
        };
        sockets.extend(taken);
    }
    Ok(Handed::new(sockets))
}

fn not_a_listener(at: usize, error: &io::Error) -> String {
    format!("taking socket {at} of those that were handed over (LISTEN_FDS): {error}")
}

/// Tells what is about to happen (`NOTIFY_SOCKET`), as `Type=notify` and `Type=notify-reload` want it.
pub(super) fn tell(phase: Phase) {
    let told = match phase {
        Phase::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Phase::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        // systemd tells by the time which of its reloads this is.
        Phase::Reloading => {
            NotifyState::monotonic_usec_now().and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]))
        }
    };
    if let Err(error) = told {
        tracing::warn!(%error, ?phase, "telling systemd");
    }
}
