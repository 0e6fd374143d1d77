//! A token cache that fails: requests do not notice, and what is wrong is named.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Plan, World};

/// A store that answers so to every command; `None` is nothing, and `PORT` its own port.
#[expect(clippy::disallowed_methods, reason = "it ends with the test")]
async fn store(answer: Option<&'static str>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = answer.map(|answer| answer.replace("PORT", &port.to_string()));
    drop(tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let answer = answer.clone();
            drop(tokio::spawn(async move {
                let mut command = [0; 4096];
                // A command is written whole, and waited for.
                while stream.read(&mut command).await? > 0 {
                    if let Some(answer) = &answer {
                        stream.write_all(answer.as_bytes()).await?;
                    }
                }
                io::Result::Ok(())
            }));
        }
    }));
    port
}

async fn world(port: u16, lines: &str) -> World {
    let table = format!("[token_cache]\nurl = \"redis://127.0.0.1:{port}\"\n{lines}\n");
    Plan::bearer().secret("CACHE_PASSWORD", "cache-password-7d1c").add(&table).start().await
}

/// The request passes, the instance is ready, and log, metrics and pages name the cause.
async fn names(world: World, code: &str) {
    world.countersign.until_ready().await;
    assert_eq!(world.get("/orders").await.status, 200);
    assert_eq!(world.tokens.calls(), 1);
    let metrics = world.countersign.metrics().await;
    let errors = metrics.count("countersign_token_cache_errors_total", &[&format!("cause=\"{code}\"")]);
    assert!(errors >= 1, "{errors}");
    let log = world.countersign.log();
    assert!(log.contains(&format!("\"cause\":\"{code}\"")), "{log}");
    let ready = world.countersign.page("/readyz").await;
    assert!(ready.text().contains("token cache: ") && ready.status == 200, "{ready:?}");
    let status = world.countersign.page("/api/status").await.json();
    assert_ne!(status["token_cache"]["state"], "in-use");
    let page = world.countersign.page("/").await.text();
    assert!(page.contains("The token cache"), "{page}");
    world.finish().await;
}

macro_rules! answered {
    ($($name:ident: $answer:expr => $code:literal;)*) => {$(
        #[tokio::test]
        async fn $name() {
            names(world(store($answer).await, "").await, $code).await;
        }
    )*};
}

answered! {
    a_cache_that_wants_a_password: Some("-NOAUTH Authentication required.\r\n") => "cache-login";
    a_user_without_rights: Some("-NOPERM User default has no permissions to run the 'eval' command\r\n") => "cache-login";
    a_cache_that_is_a_replica: Some("-READONLY You can't write against a read only replica.\r\n") => "cache-read-only";
    a_cache_that_is_full: Some("-OOM command not allowed when used memory > 'maxmemory'.\r\n") => "cache-full";
    a_cache_that_is_a_cluster: Some("-MOVED 3999 127.0.0.1:9\r\n") => "cache-moved";
    a_cache_that_is_starting: Some("-LOADING Redis is loading the dataset in memory\r\n") => "cache-failing";
    a_cache_that_is_none: Some("HTTP/1.1 400 Bad Request\r\n\r\n") => "cache-not-redis";
    an_answer_of_another_shape: Some("*1\r\n:1\r\n") => "cache-not-redis";
    a_cache_that_says_nothing: None => "cache-slow";
    an_entry_of_somebody_else: Some("*3\r\n$7\r\ngarbage\r\n:1000\r\n:0\r\n") => "cache-garbage";
}

#[tokio::test]
async fn a_cache_with_another_password() {
    let port = store(Some("-WRONGPASS invalid username-password pair or user is disabled.\r\n")).await;
    let lines = "username = \"sidecars\"\npassword = { env = \"CACHE_PASSWORD\" }";
    names(world(port, lines).await, "cache-login").await;
}

#[tokio::test]
async fn a_cache_that_is_not_there() {
    // Bound, and not listened on.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    names(world(port, "").await, "cache-unreachable").await;
}

#[tokio::test]
async fn a_node_that_sends_round_in_circles() {
    let port = store(Some("-MOVED 3999 :PORT\r\n")).await;
    names(world(port, "cluster = true").await, "cache-moved").await;
}
