//! A corporate HTTP proxy: CONNECT, wherever the name points to, to one address of the test's.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use crate::double::Double;
use crate::ledger::Ledger;
use crate::script::Script;

/// A proxy that everything leads through to one address.
#[derive(Debug)]
pub struct ConnectProxy {
    double: Double,
    shared: Arc<Shared>,
}

/// What the proxy was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// `host:port`, as asked for.
    pub target: String,
    /// The `Proxy-Authorization` field.
    pub authorization: Option<String>,
}

/// What a proxy does about CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manners {
    /// Leads to this address.
    Lead(SocketAddr),
    /// Sends these bytes and closes.
    Say(Vec<u8>),
    /// Says nothing.
    Hang,
}

#[derive(Debug)]
struct Shared {
    manners: Mutex<Manners>,
    asked: Ledger<Connect>,
}

impl ConnectProxy {
    /// Starts a proxy that leads every CONNECT to `address`.
    pub async fn start(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared { manners: Mutex::new(Manners::Lead(address)), asked: Ledger::new() });
        let serving = Arc::clone(&shared);
        let double =
            Double::start("proxy", Script::default(), move |stream, _crew| serve(stream, Arc::clone(&serving)));
        Self { double: double.await, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.double.address()
    }

    /// What it does from now on.
    pub fn behave(&self, manners: Manners) {
        *self.shared.manners.lock().unwrap_or_else(PoisonError::into_inner) = manners;
    }

    /// What it was asked, oldest first.
    pub fn asked(&self) -> Vec<Connect> {
        self.shared.asked.snapshot()
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let Some(head) = read_head(&mut stream).await else { return };
    let field = |name: &str| {
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
    };
    let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or(&head).to_owned();
    drop(shared.asked.push(Connect { target, authorization: field("proxy-authorization") }));
    let manners = shared.manners.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match manners {
        Manners::Hang => std::future::pending().await,
        Manners::Say(bytes) => {
            // Whoever asked may have gone.
            stream.write_all(&bytes).await.ok();
        }
        Manners::Lead(address) => {
            let mut upstream = TcpStream::connect(address).await.expect("the test's own address takes connections");
            if stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_ok() {
                // Either side may end it at any time.
                copy_bidirectional(&mut stream, &mut upstream).await.ok();
            }
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        head.extend(byte);
    }
    String::from_utf8(head).ok()
}
