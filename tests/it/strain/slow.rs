//! Clients that are slow, on purpose or not.

use std::process::Command;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{MIB, Plan, Site, assert_formula, large};
use crate::support::{Client, Piece, within};

/// What slow clients do.
#[derive(Clone, Copy, Debug)]
enum Slow {
    /// A head that never ends.
    Head,
    /// A body that never ends.
    Body,
    /// An answer that is never taken.
    Reader,
}

/// One of them; returns how long it was let.
async fn dawdle(mut client: Client, slow: Slow) -> Duration {
    let begun = Instant::now();
    match slow {
        Slow::Head => client.writer.send("GET /hurt HTTP/1.1\r\nhost: localhost\r\n").await,
        Slow::Body => {
            client.writer.send("POST /hurt HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999\r\n\r\n").await;
        }
        Slow::Reader => {
            client.writer.request("GET", "/hurt", &[], b"").await;
            // The end shows when what is left is read: later, so that it is no progress.
            sleep(Duration::from_secs(4)).await;
            while client.reader.skip().await {}
            return begun.elapsed();
        }
    }
    loop {
        tokio::select! {
            is_open = client.reader.skip() => if !is_open { return begun.elapsed() },
            () = sleep(Duration::from_millis(500)) => {
                if client.writer.try_send(if matches!(slow, Slow::Head) { "x: y\r\n" } else { "b" }).await.is_err() {
                    return begun.elapsed();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_closed_on_time_and_the_others_notice_nothing() {
    const EACH: usize = 40;
    let limits = "header_timeout = \"2s\"\nidle_timeout = \"2s\"\nmax_in_flight = 512";
    let plan = Plan::new(limits).upstream("upload_idle_timeout = \"10s\"\nbody_idle_timeout = \"10s\"");
    let site = plan.hurt(large(8 * MIB)).start().await;
    let good = site.ask_steadily().await;
    let mut slow = JoinSet::new();
    for kind in [Slow::Head, Slow::Reader] {
        for _ in 0..EACH {
            let client = site.client().await;
            slow.spawn(async move { (kind, dawdle(client, kind).await) });
        }
    }
    let mut bodies = JoinSet::new();
    for _ in 0..EACH {
        let client = site.client().await;
        bodies.spawn(dawdle(client, Slow::Body));
    }
    while let Some(ended) = within(slow.join_next()).await {
        let (kind, taken) = ended.unwrap();
        assert!(taken >= Duration::from_secs(2) && taken < Duration::from_secs(12), "{kind:?}: {taken:?}");
    }
    // A body that goes on, however slowly, is an upload like any other: the API answers it when it likes.
    let pace = good.end().await;
    println!("{pace}");
    assert!(pace.requests > 50 && pace.p99 < Duration::from_secs(2), "{pace:?}");
    drop(bodies);
    site.program.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes; `make strain`"]
async fn t83_two_thousand_slow_connections_of_slowhttptest() {
    for (mode, more) in [
        ("-H", &["-i", "2", "-x", "24"][..]),
        ("-B", &["-i", "2", "-s", "8192", "-x", "10"][..]),
        ("-R", &["-a", "5", "-b", "3000"][..]),
        ("-X", &["-w", "8", "-y", "16", "-n", "2", "-z", "8", "-k", "1"][..]),
    ] {
        let limits = "max_connections = 4096\nheader_timeout = \"10s\"\nidle_timeout = \"10s\"";
        // What is read slowly has to be large; what is written slowly is answered when it is there.
        let plan = Plan::new(limits);
        let site = if mode == "-X" { plan.hurt(large(8 * MIB)) } else { plan }.start().await;
        let quiet = {
            let good = site.ask_steadily().await;
            sleep(Duration::from_secs(5)).await;
            good.end().await
        };
        let good = site.ask_steadily().await;
        let url = format!("http://{}/hurt", site.program.proxy);
        let mut command = Command::new("slowhttptest");
        command.args([mode, "-c", "2000", "-r", "400", "-l", "40", "-p", "3", "-u", &url]).args(more);
        let Ok(mut attack) = command.stdout(std::process::Stdio::piped()).spawn() else {
            eprintln!("slowhttptest is not installed: nothing was tested");
            return;
        };
        let mut most = site.program.usage();
        let (mut in_flight, mut slowest) = (0, Duration::ZERO);
        while attack.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(500)).await;
            let usage = site.program.usage();
            most.resident = most.resident.max(usage.resident);
            most.descriptors = most.descriptors.max(usage.descriptors);
            slowest = slowest.max(site.health().await);
            let metrics = site.program.metrics().await;
            in_flight = in_flight.max(metrics.count("countersign_requests_in_flight", &[]));
        }
        let pace = good.end().await;
        println!("{mode}: before: {quiet}; under attack: {pace}; health {slowest:?}; in flight {in_flight}; {most:?}");
        let said = String::from_utf8_lossy(&attack.wait_with_output().unwrap().stdout).into_owned();
        for line in said
            .lines()
            .filter(|line| ["closed", "error", "service available", "Exit"].iter().any(|word| line.contains(word)))
            .rev()
            .take(5)
        {
            println!("    {line}");
        }
        assert_formula(most, 2_000, usize::try_from(in_flight).unwrap(), 0);
        site.program.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 0).await;
    }
}

/// `idle` connections without a request, and `slow` downloads and as many uploads that barely move: memory is bounded by
/// how many they are, not by how much they carry.
async fn idle_and_slow(idle: usize, slow: usize, size: usize) {
    let limits = format!("max_connections = {}\nmax_in_flight = {}", idle + 2 * slow + 16, 8 * slow);
    let site = Plan::new(&limits).hurt(large(size)).start().await;
    let mut clients = Vec::new();
    for _ in 0..idle {
        let mut client = site.client().await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    assert_formula(site.program.usage(), idle, 0, 0);
    let (mut downloads, mut uploads) = (Vec::new(), JoinSet::new());
    for _ in 0..slow {
        let mut client = site.client().await;
        client.writer.request("GET", "/hurt", &[], b"").await;
        assert_eq!(client.reader.head("GET").await.status, 200);
        assert!(matches!(client.reader.piece().await, Piece::Data(_)));
        downloads.push(client);
        let mut client = site.client().await;
        uploads.spawn(async move {
            client.writer.send(format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n")).await;
            for _ in 0..4 {
                client.writer.send(vec![b'u'; 64 * 1024]).await;
                sleep(Duration::from_millis(500)).await;
            }
            client
        });
    }
    let mut most = site.program.usage();
    let mut held = Vec::new();
    loop {
        tokio::select! {
            ended = uploads.join_next() => match ended {
                Some(client) => held.push(client.unwrap()),
                None => break,
            },
            () = sleep(Duration::from_millis(200)) => {
                let usage = site.program.usage();
                most = if usage.resident > most.resident { usage } else { most };
            }
        }
    }
    assert_formula(most, idle + 2 * slow, 2 * slow, 0);
    println!("health {:?}", site.health().await);
    drop((clients, downloads, held));
    site.program.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_by_connections_and_not_by_what_they_carry() {
    idle_and_slow(150, 20, 16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs memory and minutes; `make strain`"]
async fn t85_a_thousand_idle_connections_and_two_hundred_slow_transfers_each_way() {
    idle_and_slow(1_000, 200, 64 * MIB).await;
}

impl Site {
    /// That so many are on their way to `/hurt`.
    pub(super) async fn until_in_flight(&self, number: u64) {
        self.program.until(|metrics| metrics.count("countersign_requests_in_flight", &[]) == number).await;
    }
}
