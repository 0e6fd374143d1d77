//! An upstream that sends more than anybody wants.

use std::sync::Arc;
use std::time::Duration;

use standin::{Alpn, Fault};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::Bench;
use crate::support::API;

/// New connections lead to one that says hello with `first` and then `flood`, over and over, whatever it is asked.
async fn flooded(alpn: Alpn, protocol: &'static [u8], first: &'static [u8], flood: Vec<u8>) {
    let bench = Bench::start(alpn).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(bench.authority.server_config(&[API], &[protocol]));
    let mut upstream = JoinSet::new();
    let flood = Arc::new(flood);
    upstream.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, flood) = (acceptor.clone(), Arc::clone(&flood));
            connections.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (mut from, mut to) = tokio::io::split(stream);
                let mut asked = vec![0; 16 * 1024];
                if from.read(&mut asked).await.is_err() || to.write_all(first).await.is_err() {
                    return;
                }
                let listening = async { while from.read(&mut asked).await.is_ok_and(|length| length > 0) {} };
                let flooding = async { while to.write_all(&flood).await.is_ok() {} };
                tokio::join!(listening, flooding);
            });
        }
    });
    let begin = async |bench: &mut Bench| {
        bench.network.lead_to(address);
        bench.gateway.go_away();
    };
    let end = async |bench: &mut Bench| {
        bench.network.lead_to(bench.gateway.address());
        // Whoever floods is not going away by itself.
        bench.network.set(Fault::Refuse);
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.network.set(Fault::None);
    };
    let ledger = bench.survive(begin, end).await;
    assert!(!ledger.marked().is_empty(), "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_interim_answers() {
    let flood = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(100);
    flooded(Alpn::Http1, b"http/1.1", b"", flood).await;
}

/// SETTINGS without a setting, to begin with; each of the flood wants an acknowledgement (RFC 9113 6.5).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_settings() {
    let settings = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    flooded(Alpn::Http2, b"h2", settings, settings.repeat(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings() {
    let ping = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    flooded(Alpn::Http2, b"h2", &[0, 0, 0, 4, 0, 0, 0, 0, 0], ping.repeat(100)).await;
}

/// Interim answers to the first stream, which h2 would take for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_interim_answers_over_http_2() {
    // HEADERS with END_HEADERS on stream 1: `:status: 103` as a literal without a name of its own.
    let interim = &[0, 0, 5, 1, 4, 0, 0, 0, 1, 0x08, 3, b'1', b'0', b'3'];
    flooded(Alpn::Http2, b"h2", &[0, 0, 0, 4, 0, 0, 0, 0, 0], interim.repeat(100)).await;
}
