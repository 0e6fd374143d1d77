//! Between a client and a double, on the level of bytes: a network that fails as it is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::double::Crew;

/// What goes wrong, on connections old and new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// New connections are reset; old ones go on.
    Refuse,
    /// Bytes are taken and lead nowhere, either way, until the fault is over.
    BlackHole,
    /// Each piece of an answer comes so much later.
    Delay(Duration),
    /// An answer comes in single bytes, with this pause between.
    Drip(Duration),
    /// The connection is reset after so many bytes of answers.
    Reset(usize),
    /// The connection ends after so many bytes of answers, as if all were said.
    Truncate(usize),
}

/// A running relay. Dropping it ends its connections.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    target: watch::Sender<SocketAddr>,
    crew: Crew,
}

/// How a connection is left.
enum End {
    Close,
    Reset,
}

impl FaultProxy {
    /// Leads from a free port of 127.0.0.1 to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), target).await
    }

    /// The same from an address of the caller's choice.
    pub async fn start_at(address: SocketAddr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (fault, faults) = watch::channel(Fault::None);
        let (target, targets) = watch::channel(target);
        let crew = Crew::default();
        let relays = crew.clone();
        crew.spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    let target = *targets.borrow();
                    relays.spawn(serve(stream, target, faults.clone()));
                }
            }
        });
        Self { address, fault, target, crew }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has this go wrong from now on.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Leads new connections there.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.crew.end();
    }
}

async fn serve(mut client: TcpStream, target: SocketAddr, fault: watch::Receiver<Fault>) {
    let now = *fault.borrow();
    let end = if now == Fault::Refuse { End::Reset } else { relay(&mut client, target, fault).await };
    if matches!(end, End::Reset) {
        client.set_zero_linger().ok();
    }
}

async fn relay(client: &mut TcpStream, target: SocketAddr, fault: watch::Receiver<Fault>) -> End {
    client.set_nodelay(true).ok();
    let Ok(mut double) = TcpStream::connect(target).await else { return End::Reset };
    double.set_nodelay(true).ok();
    let (from_client, to_client) = client.split();
    let (from_double, to_double) = double.split();
    let (up, down) = (requests(from_client, to_double, fault.clone()), answers(from_double, to_client, fault));
    tokio::select! {
        end = up => end,
        end = down => end,
    }
}

/// Ready once bytes pass.
async fn open(fault: &mut watch::Receiver<Fault>) {
    fault.wait_for(|fault| *fault != Fault::BlackHole).await.ok();
}

async fn requests(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut fault: watch::Receiver<Fault>,
) -> End {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut piece).await else { return End::Close };
        open(&mut fault).await;
        if to.write_all(&piece[..length]).await.is_err() {
            return End::Reset;
        }
    }
}

async fn answers(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut fault: watch::Receiver<Fault>,
) -> End {
    let mut buffer = vec![0; 16 * 1024];
    let (mut since, mut passed) = (*fault.borrow(), 0);
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) => return End::Close,
            Ok(length) => length,
            Err(_) => return End::Reset,
        };
        open(&mut fault).await;
        let now = *fault.borrow();
        if now != since {
            (since, passed) = (now, 0);
        }
        let mut piece = &buffer[..length];
        let last = match now {
            Fault::None | Fault::Refuse | Fault::BlackHole => None,
            Fault::Delay(pause) => {
                sleep(pause).await;
                None
            }
            Fault::Drip(pause) => {
                while piece.len() > 1 && *fault.borrow() == now {
                    let (first, rest) = piece.split_at(1);
                    if to.write_all(first).await.is_err() {
                        return End::Reset;
                    }
                    piece = rest;
                    sleep(pause).await;
                }
                None
            }
            Fault::Reset(most) => (passed + length >= most).then_some((most, End::Reset)),
            Fault::Truncate(most) => (passed + length >= most).then_some((most, End::Close)),
        };
        if let Some((most, end)) = last {
            to.write_all(&piece[..most.saturating_sub(passed).min(length)]).await.ok();
            return end;
        }
        passed += length;
        if to.write_all(piece).await.is_err() {
            return End::Reset;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_cut_where_it_was_told() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = FaultProxy::start(listener.local_addr().unwrap()).await;
        for (fault, whole) in [(Fault::None, true), (Fault::Truncate(3), false), (Fault::Drip(Duration::ZERO), true)] {
            proxy.set(fault);
            let mut client = TcpStream::connect(proxy.address()).await.unwrap();
            let (mut double, _) = listener.accept().await.unwrap();
            client.write_all(b"ask").await.unwrap();
            double.read_exact(&mut [0; 3]).await.unwrap();
            double.write_all(b"answer").await.unwrap();
            drop(double);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, if whole { &b"answer"[..] } else { b"ans" }, "{fault:?}");
        }
        proxy.set(Fault::Refuse);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(!matches!(client.read(&mut [0]).await, Ok(1..)));
    }
}
