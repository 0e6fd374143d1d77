//! Hours of requests through a network that fails every so often: `make soak`.
//!
//! The real program, so that its memory and descriptors can be looked at from outside.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use standin::{Alpn, Authority, Fault, FaultProxy, Gateway, TokenEndpoint, TokenForm};
use tempfile::TempDir;
use tokio::time::{Instant, interval, sleep};

use crate::support::{API, Done, Ledger, Program, Usage, app_client, token};

/// Between two faults, and how long each lasts.
const QUIET: Duration = Duration::from_secs(17);
const TROUBLE: Duration = Duration::from_secs(3);
/// Of memory, in an hour.
const MOST_GROWTH: f64 = 1024.0;

const FAULTS: [Fault; 9] = [
    Fault::Refuse,
    Fault::BlackHole,
    Fault::Delay(Duration::from_millis(300)),
    Fault::Drip(Duration::from_millis(1)),
    Fault::Reset(0),
    Fault::Reset(100),
    Fault::Reset(3_000),
    Fault::Truncate(100),
    Fault::Truncate(3_000),
];

async fn api(authority: &Authority, tokens: &TokenEndpoint, alpn: Alpn, done: &Done) -> (Gateway, FaultProxy) {
    let gateway = Gateway::builder().tls(authority, &[API]).alpn(alpn);
    let gateway = gateway.method("/prod", token(tokens, "authorization", TokenForm::Bearer));
    let gateway = gateway.respond("/prod/n", done.responder()).start().await;
    let network = FaultProxy::start(gateway.address()).await;
    (gateway, network)
}

fn config(token_url: &str, [by_one, by_two]: [&FaultProxy; 2]) -> String {
    format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[upstream]\nca_file = \"ca.pem\"\n\
         connect_timeout = \"1s\"\ntls_timeout = \"1s\"\nresponse_timeout = \"2s\"\nbody_idle_timeout = \"2s\"\n\
         max_connection_age = \"30s\"\n[auth.tokens]\nkind = \"client-credentials\"\ntoken_url = \"{token_url}\"\n\
         client_id = \"orders\"\nclient_secret = {{ value = \"soak-secret\" }}\n{}{}",
        route("/1", by_one),
        route("/2", by_two)
    )
}

fn route(path: &str, network: &FaultProxy) -> String {
    format!(
        "[[route]]\npath = \"{path}\"\nstrip_path = true\nauth = \"tokens\"\nupstream = \"https://{API}/prod\"\n\
         connect_to = \"{}\"\n",
        network.address()
    )
}

#[expect(clippy::disallowed_methods, reason = "how long, and how much, is for whoever runs it")]
fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// By how much a value grows in an hour, by least squares.
#[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
fn slope(samples: &[(f64, f64)]) -> f64 {
    let mean = |pick: fn(&(f64, f64)) -> f64| samples.iter().map(pick).sum::<f64>() / samples.len() as f64;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let up: f64 = samples.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum();
    let along: f64 = samples.iter().map(|sample| (sample.0 - x).powi(2)).sum();
    up / along * 3_600.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is told; `make soak`"]
async fn soak() {
    let (length, rate) = (Duration::from_secs(setting("SOAK_SECONDS", 3_600).into()), setting("SOAK_RPS", 300));
    let authority = Authority::new();
    let tokens = TokenEndpoint::start(vec![app_client("orders", "soak-secret")]).await;
    let done = [Done::default(), Done::default()];
    let (one, by_one) = api(&authority, &tokens, Alpn::Http1, &done[0]).await;
    let (two, by_two) = api(&authority, &tokens, Alpn::Http2, &done[1]).await;
    let folder = TempDir::new().unwrap();
    authority.write_pem(folder.path());
    let config = config(&tokens.url(), [&by_one, &by_two]);
    fs::write(folder.path().join("countersign.toml"), config).unwrap();
    let program = Program::start(folder.path()).await;
    let proxy = program.proxy;
    let ledgers = [Arc::new(Ledger::default()), Arc::new(Ledger::default())];
    let asking = [ledgers[0].open(proxy, "/1/n", 40, rate / 2), ledgers[1].open(proxy, "/2/n", 40, rate / 2)];

    let set = |fault: Fault| {
        by_one.set(fault);
        by_two.set(fault);
    };
    let (begun, mut samples, mut most) = (Instant::now(), Vec::new(), (0, 0));
    let sampling = async {
        let mut ticks = interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            let Usage { resident, descriptors } = program.usage();
            most = (most.0.max(resident), most.1.max(descriptors));
            // The beginning fills pools and the allocator.
            if begun.elapsed() > length / 4 {
                samples.push((begun.elapsed().as_secs_f64(), f64::from(u32::try_from(resident).unwrap())));
            }
        }
    };
    let troubling = async {
        loop {
            sleep(QUIET).await;
            let fault = fastrand::usize(..=FAULTS.len());
            match FAULTS.get(fault) {
                Some(fault) => set(*fault),
                None => [&one, &two].into_iter().for_each(Gateway::go_away),
            }
            sleep(TROUBLE).await;
            set(Fault::None);
            let told = FAULTS.get(fault).map_or_else(|| "GoAway".to_owned(), |fault| format!("{fault:?}"));
            let Usage { resident, descriptors } = program.usage();
            println!(
                "{:>5} s {told:<16} {resident:>6} KiB {descriptors:>4} descriptors, {} + {} delivered",
                begun.elapsed().as_secs(),
                ledgers[0].delivered(),
                ledgers[1].delivered()
            );
        }
    };
    tokio::select! {
        () = sampling => {}
        () = troubling => {}
        () = sleep(length) => {}
    }
    set(Fault::None);
    for ((ledger, asking), done) in ledgers.iter().zip(asking).zip(&done) {
        ledger.close(asking).await;
        println!(
            "{} sent, {} delivered, {:?}, {} cut, slowest {:?}",
            ledger.sent(),
            ledger.delivered(),
            ledger.marked(),
            ledger.cut(),
            ledger.slowest()
        );
        ledger.balance(done);
    }
    let growth = slope(&samples);
    // Idle connections end, and so do the clients'.
    sleep(Duration::from_secs(25)).await;
    let Usage { resident, descriptors } = program.usage();
    println!(
        "resident {resident} KiB at the end, {} KiB at most, {growth:.0} KiB/h; {descriptors} descriptors, {} at most",
        most.0, most.1
    );
    assert!(descriptors < 40, "{descriptors} descriptors are left");
    // In a short run the noise of one fault is more than the slope of hours.
    assert!(length < Duration::from_mins(30) || growth < MOST_GROWTH, "{growth} KiB/h");
}
