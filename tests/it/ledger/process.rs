//! Faults of the process: no descriptors left, and nobody who reads its log.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use standin::{Authority, Authorizer, Gateway};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{FAULT, RECOVERY};
use crate::support::{API, Client, Done, Ledger, OwnWords, Program, within};

/// Requests to the real program, started through a shell by `line`, while `trouble` lasts.
async fn survive(line: &str, log: &str, trouble: impl AsyncFnOnce(&Program)) -> (Ledger, Program) {
    let (authority, done) = (Authority::new(), Done::default());
    let gateway = Gateway::builder().tls(&authority, &[API]).method("/prod", Authorizer::Open);
    let gateway = gateway.respond("/prod/n", done.responder()).start().await;
    let folder = TempDir::new().unwrap();
    authority.write_pem(folder.path());
    let config = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\n{log}\n[upstream]\n\
         ca_file = \"ca.pem\"\nmax_connection_age = \"200ms\"\nhttp2 = \"never\"\n[[route]]\nauth = \"none\"\n\
         upstream = \"https://{API}/prod\"\nconnect_to = \"127.0.0.1:{}\"\n",
        gateway.port()
    );
    std::fs::write(folder.path().join("countersign.toml"), config).unwrap();
    let program = Program::start_by(folder.path(), line).await;
    let ledger = Arc::new(Ledger::default());
    let asking = ledger.open(program.proxy, "/n", 12, 240);
    let more = async |number: u64| {
        let wanted = ledger.delivered() + number;
        within(async {
            while ledger.delivered() < wanted {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    more(30).await;
    trouble(&program).await;
    let over = Instant::now();
    more(60).await;
    let recovered = over.elapsed();
    ledger.close(asking).await;
    println!("{}, recovered in {recovered:?}", ledger.summary());
    assert!(recovered < RECOVERY, "{recovered:?}");
    ledger.balance(&done);
    (Arc::into_inner(ledger).expect("the clients have ended"), program)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_descriptors() {
    let trouble = async |program: &Program| {
        let limit = |most: usize| {
            let arguments = [format!("--pid={}", program.id()), format!("--nofile={most}:")];
            assert!(Command::new("prlimit").args(arguments).status().unwrap().success());
        };
        // Connections age fast here: new ones are wanted all the time, and cannot be had.
        limit(program.usage().descriptors / 2);
        sleep(FAULT).await;
        limit(1_024);
    };
    let (ledger, _program) = survive("exec \"$@\"", "", trouble).await;
    assert!(!ledger.marked().is_empty(), "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_the_log() {
    // Its first lines go to the file that tells where it listens; from then on the pipe is open, and full.
    let line = "mkfifo pipe; { for n in 1 2 3 4 5 6; do read -r text && echo \"$text\"; done >log; exec sleep 20; } <pipe & \
                exec \"$@\" 2>pipe";
    // Refusals with long lines, until no more of them can wait.
    let fill = async |program: &Program| {
        let mut client = Client::connect(program.proxy, OwnWords::default()).await;
        let (path, begun) = (format!("/n/{}", "x".repeat(500)), Instant::now());
        while program.metrics().await.count("countersign_log_lines_lost_total", &[]) == 0 {
            for _ in 0..200 {
                assert_eq!(client.ask("TRACE", &path, &[], b"").await.status, 405);
            }
        }
        println!("full after {:?}", begun.elapsed());
        sleep(FAULT).await;
    };
    let (ledger, _program) = survive(line, "level = \"trace\"", fill).await;
    assert!(ledger.marked().is_empty() && ledger.cut() == 0, "{ledger:?}");
}
