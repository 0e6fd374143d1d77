//! Whether anybody holds the far end of a connection any more.
//!
//! A client that has closed its side may be waiting for its answer, or be gone: on the wire it is the same. On the same
//! machine the kernel knows, because the socket at the far end has an owner or has none, and says so when it is asked for
//! that one socket (`sock_diag(7)`). Where it does not say, nobody is called gone. Imports nothing of ours.

use std::net::SocketAddr;

use tokio::net::TcpStream;

/// The far end of a connection, seen from here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FarEnd {
    far: SocketAddr,
    near: SocketAddr,
}

impl FarEnd {
    /// Of this connection.
    pub(super) fn of(stream: &TcpStream) -> Option<Self> {
        Some(Self { far: stream.peer_addr().ok()?, near: stream.local_addr().ok()? })
    }

    /// Whether it certainly has no owner.
    pub(super) fn is_orphaned(self) -> bool {
        owner(self.far, self.near) == Some(0)
    }
}

/// The inode of the socket that is `local` and connected to `peer`; 0 once its owner has closed it.
#[cfg(target_os = "linux")]
fn owner(local: SocketAddr, peer: SocketAddr) -> Option<u32> {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

    const ANSWER: std::ops::Range<usize> = 84..88;
    let netlink =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG)).ok()?;
    send(&netlink, &question(local, peer), SendFlags::empty()).ok()?;
    let mut answer = [0_u8; 512];
    // It was written while the question was sent.
    let (length, _) = recv(&netlink, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
    let answer = answer.get(..length)?;
    let is_socket = answer.get(4..6)? == SOCK_DIAG_BY_FAMILY.to_ne_bytes();
    let inode = answer.get(ANSWER).filter(|_| is_socket)?;
    Some(u32::from_ne_bytes(inode.try_into().ok()?))
}

#[cfg(target_os = "linux")]
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// A `nlmsghdr` with a `inet_diag_req_v2` behind it, for the one socket.
#[cfg(target_os = "linux")]
fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    const LENGTH: u32 = 72;
    const NLM_F_REQUEST: u16 = 1;
    const IPPROTO_TCP: u8 = 6;
    let (local_ip, peer_ip) = (local.ip().to_canonical(), peer.ip().to_canonical());
    let family = u8::try_from(if local_ip.is_ipv4() { libc_family::INET } else { libc_family::INET6 }).unwrap_or(0);
    let octets = |ip: std::net::IpAddr| {
        let mut octets = [0; 16];
        match ip {
            std::net::IpAddr::V4(ip) => octets.iter_mut().zip(ip.octets()).for_each(|(to, from)| *to = from),
            std::net::IpAddr::V6(ip) => octets = ip.octets(),
        }
        octets
    };
    let mut question = Vec::with_capacity(LENGTH as usize);
    question.extend(LENGTH.to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and sender: there is one question, and one who asks.
    question.extend([0; 8]);
    question.extend([family, IPPROTO_TCP, 0, 0]);
    // In whatever state.
    question.extend(u32::MAX.to_ne_bytes());
    question.extend(local.port().to_be_bytes());
    question.extend(peer.port().to_be_bytes());
    question.extend(octets(local_ip));
    question.extend(octets(peer_ip));
    // On any interface, with any cookie.
    question.extend([0; 4]);
    question.extend([u8::MAX; 8]);
    question
}

/// As Linux numbers them.
#[cfg(target_os = "linux")]
mod libc_family {
    pub(super) const INET: u16 = rustix::net::AddressFamily::INET.as_raw();
    pub(super) const INET6: u16 = rustix::net::AddressFamily::INET6.as_raw();
}

#[cfg(not(target_os = "linux"))]
fn owner(_local: SocketAddr, _peer: SocketAddr) -> Option<u32> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_client_that_has_closed_is_told_from_one_that_waits() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            let port = listener.local_addr().unwrap().port();
            let host = if address.starts_with("[::1]") { "::1" } else { "127.0.0.1" };
            let (client, accepted) = tokio::join!(TcpStream::connect((host, port)), listener.accept());
            let (mut client, far_end) = (client.unwrap(), FarEnd::of(&accepted.unwrap().0).unwrap());
            assert!(!far_end.is_orphaned(), "{address}");
            client.shutdown().await.unwrap();
            assert!(!far_end.is_orphaned(), "{address}: it waits for an answer");
        }
    }

    #[tokio::test]
    async fn who_is_gone_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (accepted, _) = accepted.unwrap();
        let far_end = FarEnd::of(&accepted).unwrap();
        drop(client);
        assert!(far_end.is_orphaned());
        // A pair of addresses that nobody has.
        assert!(!FarEnd { far: address, near: address }.is_orphaned());
    }
}
