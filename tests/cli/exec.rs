//! `exec`: a command beside a proxy of its own, with its streams, its signals and its exit code.

use std::net::SocketAddr;
use std::sync::Arc;

use standin::{Answer, AppClient, Authorizer, Gateway, TokenEndpoint};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::process::{Running, call, call_with_input, folder, get, within};

const SECRET: &str = "exec-client-secret-3b";

async fn gateway() -> Gateway {
    Gateway::builder().method("/prod", Authorizer::Open).start().await
}

async fn tokens() -> TokenEndpoint {
    let client = AppClient {
        id: "orders".to_owned(),
        secret: SECRET.to_owned(),
        scopes: vec!["orders/read".to_owned()],
        token_lifetime: std::time::Duration::from_hours(1),
    };
    TokenEndpoint::start(vec![client]).await
}

/// `exec` with a script beside a proxy of `upstream`.
fn open<'a>(upstream: &'a str, script: &'a str) -> [&'a str; 8] {
    ["exec", "--upstream", upstream, "--no-auth", "--", "sh", "-c", script]
}

/// A command that runs until a signal ends it, and tells when it is there. It ends with its parent too, so that a test
/// that fails leaves nothing behind.
pub(crate) fn script(traps: &str) -> String {
    format!("{traps}\necho \"url $COUNTERSIGN_URL .\" >&2\nwhile kill -0 $PPID 2>/dev/null; do sleep 0.02; done")
}

/// Where the proxy of [`script`] is.
pub(crate) async fn proxy(running: &mut Running) -> SocketAddr {
    let line = running.line(&["url http://"]).await;
    line.split_once("http://").unwrap().1.trim_end_matches(" .").parse().unwrap()
}

#[test]
fn the_commands_exit_code_and_streams_are_passed_through() {
    let empty = TempDir::new().unwrap();
    let arguments = open("http://127.0.0.1:9/", "cat; echo oops >&2; exit 7");
    let output = call_with_input(empty.path(), &arguments, &[("PATH", "/usr/bin:/bin")], "some\ninput");
    assert_eq!((output.code, output.out.as_str(), output.err.as_str()), (7, "some\ninput", "oops\n"));
    let killed = call(empty.path(), &open("http://127.0.0.1:9/", "kill -9 $$"), &[("PATH", "/usr/bin:/bin")]);
    assert_eq!((killed.code, killed.err.as_str()), (137, ""));
    let good = call(empty.path(), &open("http://127.0.0.1:9/", "exit 0"), &[("PATH", "/usr/bin:/bin")]);
    assert_eq!((good.code, good.out.as_str(), good.err.as_str()), (0, "", ""));
}

#[test]
fn a_command_that_cannot_be_run_is_told() {
    let empty = TempDir::new().unwrap();
    std::fs::write(empty.path().join("data"), "").unwrap();
    for (command, code) in [("no-such-command", 127), ("./data", 126)] {
        let output =
            call(empty.path(), &["exec", "--upstream", "http://127.0.0.1:9/", "--no-auth", "--", command], &[]);
        assert_eq!((output.code, output.out.as_str()), (code, ""));
        assert!(output.err.contains(command), "{}", output.err);
    }
    let nothing = call(empty.path(), &["exec", "--upstream", "http://127.0.0.1:9/", "--no-auth"], &[]);
    assert_eq!(nothing.code, 64);
}

#[tokio::test]
async fn the_command_reaches_the_api_and_signals_reach_the_command() {
    for (signal, code) in [("TERM", 41), ("INT", 42), ("HUP", 43), ("QUIT", 44), ("USR1", 45), ("USR2", 46)] {
        let gateway = gateway().await;
        let (upstream, empty) = (format!("http://127.0.0.1:{}/prod", gateway.port()), TempDir::new().unwrap());
        let script = script(&format!("trap 'exit {code}' {signal}"));
        let mut running = Running::start(empty.path(), &open(&upstream, &script), &[("PATH", "/usr/bin:/bin")]);
        let proxy = proxy(&mut running).await;
        assert_eq!(get(proxy, "/orders").await.0, 200);
        assert_eq!(gateway.received()[0].target, "/prod/orders");
        running.signal(signal);
        let (ended, said) = running.ended().await;
        assert_eq!(ended, code, "{said}");
    }
}

#[tokio::test]
async fn a_command_that_goes_on_after_a_signal_keeps_its_proxy() {
    let gateway = gateway().await;
    let (upstream, empty) = (format!("http://127.0.0.1:{}/prod", gateway.port()), TempDir::new().unwrap());
    let script = script("trap 'echo ignored >&2' TERM; trap 'exit 5' INT");
    let mut running = Running::start(empty.path(), &open(&upstream, &script), &[("PATH", "/usr/bin:/bin")]);
    let proxy = proxy(&mut running).await;
    running.signal("TERM");
    running.line(&["ignored"]).await;
    assert_eq!(get(proxy, "/orders").await.0, 200);
    running.signal("INT");
    assert_eq!(running.ended().await.0, 5);
}

#[tokio::test]
async fn the_credential_is_there_before_the_command() {
    let (gateway, tokens) = (gateway().await, tokens().await);
    let (upstream, empty) = (format!("http://127.0.0.1:{}/prod", gateway.port()), TempDir::new().unwrap());
    let (url, script) = (tokens.url(), script("trap 'exit 0' TERM"));
    let arguments = [
        ["exec", "--upstream", &upstream, "--client-credentials", "--token-url", &url, "--client-id", "orders"],
        ["--client-secret-env", "SECRET", "--scope", "orders/read", "--", "sh", "-c", &script],
    ]
    .concat();
    let mut running = Running::start(empty.path(), &arguments, &[("SECRET", SECRET), ("PATH", "/usr/bin:/bin")]);
    let proxy = proxy(&mut running).await;
    let issued = tokens.issued();
    assert_eq!(issued.len(), 1);
    assert_eq!(get(proxy, "/orders").await.0, 200);
    assert_eq!(gateway.received()[0].header("authorization").unwrap(), format!("Bearer {}", issued[0]));
    running.signal("TERM");
    let (code, said) = running.ended().await;
    assert_eq!(code, 0, "{said}");
    for secret in [SECRET, &issued[0]] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_cannot_be_had_is_told_before_the_command_is_run() {
    let tokens = tokens().await;
    let (url, empty) = (tokens.url(), TempDir::new().unwrap());
    let run = |strict: &[&str]| {
        let flags = ["--upstream", "http://127.0.0.1:9/", "--client-credentials", "--token-url", &url];
        let more = ["--client-id", "orders", "--client-secret-env", "SECRET", "--", "sh", "-c", "echo ran >&2; exit 3"];
        let arguments = [&["exec"], strict, &flags, &more].concat();
        let variables = [("SECRET", "a-wrong-secret"), ("PATH", "/usr/bin:/bin")];
        tokio::task::block_in_place(|| call(empty.path(), &arguments, &variables))
    };
    let output = run(&[]);
    assert_eq!(output.code, 3);
    let (before, _after) = output.err.split_once("ran\n").unwrap();
    assert!(before.contains("credential \"api\": none") && before.contains("invalid_client"), "{before}");
    assert!(!output.err.contains("a-wrong-secret"));
    let strict = run(&["--strict"]);
    assert_eq!(strict.code, 1);
    assert!(strict.err.contains("invalid_client") && !strict.err.contains("ran\n"), "{}", strict.err);
}

#[tokio::test]
async fn what_is_under_way_when_the_command_ends_is_answered() {
    let (gateway, held) = (gateway().await, Arc::new(Notify::new()));
    gateway.script(Answer::Hold(Arc::clone(&held)));
    let (upstream, empty) = (format!("http://127.0.0.1:{}/prod", gateway.port()), TempDir::new().unwrap());
    let script = script("trap 'echo ending >&2; exit 4' TERM");
    let mut running = Running::start(empty.path(), &open(&upstream, &script), &[("PATH", "/usr/bin:/bin")]);
    let proxy = proxy(&mut running).await;
    let end_first = async {
        within(gateway.until(|received| received.len() == 1)).await;
        running.signal("TERM");
        running.line(&["ending"]).await;
        held.notify_one();
    };
    let ((status, _text), ()) = tokio::join!(get(proxy, "/orders"), end_first);
    assert_eq!(status, 200);
    assert_eq!(running.ended().await.0, 4);
}

#[test]
fn a_second_one_needs_ports_of_its_own() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let folder = folder(&format!(
        "[proxy]\nlisten = [\"{taken}\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[[route]]\nauth = \"none\"\n\
         upstream = \"http://127.0.0.1:9/\"\n"
    ));
    let print = ["--", "sh", "-c", "echo $COUNTERSIGN_URL"];
    let free = call(folder.path(), &[&["exec"][..], &print].concat(), &[("PATH", "/usr/bin:/bin")]);
    assert_eq!((free.code, free.err.as_str()), (0, ""));
    assert!(free.out.starts_with("http://127.0.0.1:") && !free.out.contains(&taken.to_string()), "{}", free.out);
    let known =
        call(folder.path(), &[&["exec", "--configured-ports"][..], &print].concat(), &[("PATH", "/usr/bin:/bin")]);
    assert_eq!((known.code, known.out.as_str()), (1, ""));
    assert!(known.err.contains(&taken.to_string()), "{}", known.err);
}

#[test]
fn the_commands_environment_leads_to_the_proxy() {
    const CONFIG: &str = "[proxy]\ncaller_token = { env = \"TOKEN\" }\n[[route]]\nupstream = \"http://127.0.0.1:9/\"\n\
                          auth = \"none\"\n";
    let print = "echo $COUNTERSIGN_URL; echo $HTTP_PROXY; echo $http_proxy; echo $NO_PROXY; echo $no_proxy; echo $OWN";
    let variables = [
        ("TOKEN", "caller/token@77-0123456789"),
        ("NO_PROXY", "corp.example"),
        ("OWN", "kept"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("PATH", "/usr/bin:/bin"),
    ];
    for (log, is_told) in [("", false), ("[log]\nlevel = \"info\"\n", true)] {
        let folder = folder(&format!("{log}{CONFIG}"));
        let output = call(folder.path(), &["exec", "--", "sh", "-c", print], &variables);
        assert_eq!(output.code, 0, "{}", output.err);
        let lines: Vec<&str> = output.out.lines().collect();
        assert!(lines[0].starts_with("http://x:caller%2Ftoken%4077-0123456789@127.0.0.1:"), "{lines:?}");
        assert!(
            lines[3].starts_with("corp.example,localhost,127.0.0.1,") && lines[3].contains("169.254.170.2"),
            "{lines:?}"
        );
        assert_eq!(lines[1..], [lines[0], lines[0], lines[3], lines[3], "kept"]);
        assert_eq!(output.err.contains("listening"), is_told, "{}", output.err);
    }
}

#[test]
fn as_many_threads_serve_as_the_config_says() {
    let folder = folder("[proxy]\nworkers = 3\n[[route]]\nupstream = \"http://127.0.0.1:9/\"\nauth = \"none\"\n");
    let print = "cat /proc/$PPID/task/*/comm | grep worker | sort";
    let output = call(folder.path(), &["exec", "--", "sh", "-c", print], &[("PATH", "/usr/bin:/bin")]);
    assert_eq!((output.code, output.out.as_str()), (0, "worker-0\nworker-1\nworker-2\n"), "{}", output.err);
}
