//! Faults of those who give credentials, of their secrets, and of the clock.

use std::sync::Arc;
use std::time::Duration;

use standin::{Alpn, Answer};
use tokio::sync::Notify;

use super::{Bench, FAULT, LIFE, RECOVERY, Wants};

const NEW: &str = "ledger-client-secret-next";
const HOUR: i64 = 3_600;

/// Every token that is held has ended.
fn end_tokens(bench: &Bench) {
    bench.set_clock(2 * HOUR);
}

fn respond(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Answer::Respond { status, headers, body: body.as_bytes().to_vec() }
}

/// The token's end, and then this instead of another.
async fn instead_of_a_token(answer: Answer) {
    let bench = Bench::start(Alpn::Both).await;
    let begin = async |bench: &mut Bench| {
        bench.tokens.script(answer);
        end_tokens(bench);
    };
    let ledger = bench.survive(begin, async |_| {}).await;
    let marked = ledger.marked();
    assert!(marked.contains_key("credential-unavailable") && marked.len() == 1, "{marked:?}");
    assert_eq!(ledger.refused(), 0, "nothing went out without a token that lives");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_endpoint_that_is_down() {
    instead_of_a_token(Answer::Close).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_endpoint_that_throttles() {
    instead_of_a_token(respond(429, &[("retry-after", "1")], "")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_endpoint_that_talks_garbage() {
    let page = "<html>Sign in to the guest network</html>";
    instead_of_a_token(respond(200, &[("content-type", "text/html")], page)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_rotated_with_its_file() {
    let bench = Bench::start(Alpn::Both).await;
    let begin = async |bench: &mut Bench| {
        bench.countersign.rewrite("secret", NEW);
        bench.tokens.rotate_secret("orders", NEW);
        end_tokens(bench);
    };
    let ledger = bench.survive(begin, async |_| {}).await;
    assert!(ledger.marked().is_empty() && ledger.refused() == 0, "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_rotated_before_its_file() {
    let bench = Bench::start(Alpn::Both).await;
    let begin = async |bench: &mut Bench| {
        bench.tokens.rotate_secret("orders", NEW);
        end_tokens(bench);
    };
    let end = async |bench: &mut Bench| bench.countersign.rewrite("secret", NEW);
    // Files are looked at every 5 s.
    let ledger = bench.survive_for(FAULT, RECOVERY + Duration::from_secs(2), begin, end).await;
    let marked = ledger.marked();
    assert!(marked.keys().all(|code| code == "credential-unavailable") && ledger.refused() == 0, "{marked:?}");
}

/// The role's credentials end meanwhile and are used on (docs/rules.md 3.6): what is passed on is the API's own refusal.
async fn an_sts_that_says(code: &str, times: usize, recovery: Duration) {
    let bench = Bench::wanting(Wants::Role, Alpn::Both).await;
    let status = if code == "AccessDenied" { 403 } else { 400 };
    let body = format!("<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>");
    let begin = async |bench: &mut Bench| {
        for _ in 0..times {
            bench.sts.script(respond(status, &[("content-type", "text/xml")], &body));
        }
    };
    let ledger = bench.survive_for(LIFE + FAULT, recovery, begin, async |_| {}).await;
    assert!(ledger.marked().is_empty() && ledger.cut() == 0, "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_sts_that_throttles() {
    an_sts_that_says("Throttling", 1, RECOVERY).await;
}

/// A person has to act, and one try a minute finds out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute; `make strain`"]
async fn strain_an_sts_that_denies() {
    an_sts_that_says("AccessDenied", 1, Duration::from_mins(1) + RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_agent_that_is_slow() {
    let bench = Bench::wanting(Wants::Task, Alpn::Both).await;
    let go = Arc::<Notify>::default();
    let begin = async |bench: &mut Bench| bench.task.script(Answer::Hold(Arc::clone(&go)));
    // Longer than until the next renewal, and not as long as the credentials live.
    let ledger = bench.survive_for(LIFE.mul_f64(0.9), RECOVERY, begin, async |_| go.notify_one()).await;
    assert!(ledger.marked().is_empty() && ledger.refused() == 0, "{ledger:?}");
}

/// A wall clock that is set, and set right again.
async fn clock(wants: Wants, seconds: i64) {
    let bench = Bench::wanting(wants, Alpn::Both).await;
    let ledger = bench.survive(async |bench| bench.set_clock(seconds), async |bench| bench.set_clock(0)).await;
    assert!(ledger.marked().is_empty() && ledger.refused() == 0 && ledger.cut() == 0, "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_ten_minutes_fast() {
    clock(Wants::User, 600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_ten_minutes_slow() {
    clock(Wants::User, -600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_eight_hours_fast() {
    clock(Wants::User, 8 * HOUR).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_eight_hours_fast_before_an_api_of_tokens() {
    clock(Wants::Token, 8 * HOUR).await;
}
