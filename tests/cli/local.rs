//! On one's own machine: a route by flags, `env`, and `wait`.

use std::process::Command;
use std::sync::Arc;

use standin::{AccessKey, AccessKeys, Answer, AppClient, Authorizer, Gateway, TokenEndpoint};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::exec::{proxy, script};
use crate::process::{Running, call, folder, get, within};

const API: &str = "https://abc123.execute-api.eu-west-1.amazonaws.com/prod";

#[tokio::test]
async fn a_route_by_flags_signs() {
    let keys = AccessKeys::new();
    keys.add(AccessKey {
        id: "AKIDLOCAL".to_owned(),
        secret: "local-secret-8c".to_owned(),
        session_token: None,
        principal: "arn:aws:iam::123456789012:user/local".to_owned(),
        expires: None,
    });
    let iam = Authorizer::Iam { keys, region: "eu-west-1".to_owned(), service: "lambda".to_owned() };
    let gateway = Gateway::builder().method("/prod", iam).start().await;
    let (upstream, empty) = (format!("http://127.0.0.1:{}/prod", gateway.port()), TempDir::new().unwrap());
    std::fs::write(
        empty.path().join("credentials"),
        "[te+am]\naws_access_key_id = AKIDLOCAL\naws_secret_access_key = local-secret-8c\n",
    )
    .unwrap();
    let file = empty.path().join("credentials");
    let file = ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    // `run` would take the well-known admin port, which another one may hold.
    let script = script("trap 'exit 0' TERM");
    let arguments = [
        ["exec", "--upstream", &upstream, "--sigv4", "--region", "eu-west-1", "--service", "lambda"],
        ["--listen", "127.0.0.1:0", "--profile", "te+am", "--", "sh", "-c", &script],
    ]
    .concat();
    let mut running = Running::start(empty.path(), &arguments, &[file, ("PATH", "/usr/bin:/bin")]);
    let proxy = proxy(&mut running).await;
    let (status, text) = get(proxy, "/orders").await;
    assert_eq!(status, 200, "{text}");
    running.signal("TERM");
    assert_eq!(running.ended().await.0, 0);
}

#[test]
fn check_and_explain_take_the_flags_of_run() {
    let empty = TempDir::new().unwrap();
    let flags =
        ["--upstream", API, "--sigv4", "--role-arn", "arn:aws:iam::123456789012:role/x", "--external-id", "4,2"];
    let output = call(empty.path(), &[&["check"], &flags[..]].concat(), &[]);
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    assert_eq!(output.out, format!("route api: main */ -> {API}, auth api\nok: 1 route\n"));
    let output = call(empty.path(), &[&["explain"], &flags[..], &["GET", "http://localhost:8080/a"]].concat(), &[]);
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    assert!(output.out.contains("SigV4 for execute-api in eu-west-1"), "{}", output.out);
}

#[test]
fn a_flag_that_is_wrong_is_named() {
    let empty = TempDir::new().unwrap();
    let client = |url, variable| {
        [
            "--upstream",
            API,
            "--client-credentials",
            "--token-url",
            url,
            "--client-id",
            "a",
            "--client-secret-env",
            variable,
        ]
        .to_vec()
    };
    for (flags, flag) in [
        (vec!["--upstream", "http://far.example/", "--no-auth"], "--upstream"),
        (vec!["--upstream", API, "--sigv4", "--region", "Ireland"], "--region"),
        (vec!["--upstream", API, "--sigv4", "--role-arn", "arn:bad"], "--role-arn"),
        (vec!["--upstream", API, "--no-auth", "--listen", "8080"], "--listen"),
        (vec!["--upstream", API, "--no-auth", "--listen", "0.0.0.0:80"], "--listen"),
        (client("ftp://a.example/", "SECRET"), "--token-url"),
        (client("https://a.example/", "UNSET"), "--client-secret-env"),
    ] {
        for command in ["check", "run"] {
            let output = call(empty.path(), &[&[command], &flags[..]].concat(), &[("SECRET", "local-secret-9d")]);
            assert_eq!((output.code, output.out.as_str()), (78, ""), "{flags:?}");
            assert!(output.err.contains(&format!("error: {flag}: ")), "{flag}: {}", output.err);
        }
    }
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let folder = folder("");
    for (flags, words) in [
        (vec!["--config", "countersign.toml", "--upstream", API, "--no-auth"], "'--config <FILE>' cannot be used with"),
        (vec!["--config", "countersign.toml", "--listen", "127.0.0.1:1"], "--upstream"),
        (vec!["--upstream", API], "--sigv4|--client-credentials|--no-auth"),
        (vec!["--upstream", API, "--sigv4", "--no-auth"], "cannot be used with"),
        (vec!["--upstream", API, "--client-credentials"], "--client-secret-env"),
        (vec!["--upstream", API, "--no-auth", "--region", "eu-west-1"], "--sigv4"),
        (vec!["--sigv4"], "--upstream"),
    ] {
        let output = call(folder.path(), &[&["run"], &flags[..]].concat(), &[]);
        assert_eq!((output.code, output.out.as_str()), (64, ""), "{flags:?}");
        assert!(output.err.contains(words), "{words}: {}", output.err);
    }
}

#[test]
fn the_lines_of_env_mean_the_same_to_a_shell() {
    let config = "[proxy]\nlisten = [\"127.0.0.1:7788\"]\ncaller_token = { env = \"TOKEN\" }\n\
                  [[route]]\nupstream = \"https://a.example\"\nauth = \"none\"\n";
    let token = ("TOKEN", "it's-a/token$HOME-123");
    let url = "http://x:it%27s-a%2Ftoken%24HOME-123@127.0.0.1:7788";
    let folder = folder(config);
    let output = call(folder.path(), &["env"], &[token, ("SHELL", "/bin/bash")]);
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    let script = format!("{}printf '%s %s %s' \"$COUNTERSIGN_URL\" \"$HTTP_PROXY\" \"$http_proxy\"", output.out);
    let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(shell.stdout).unwrap(), format!("{url} {url} {url}"));
    for (shell, line) in
        [("fish", format!("set -gx HTTP_PROXY '{url}'")), ("powershell", format!("$env:HTTP_PROXY = '{url}'"))]
    {
        let output = call(folder.path(), &["env", "--shell", shell], &[token]);
        assert!(output.out.lines().any(|said| said == line), "{}", output.out);
    }
    let by_flags = call(folder.path(), &["env", "--upstream", API, "--no-auth"], &[]);
    assert!(by_flags.out.contains("COUNTERSIGN_URL='http://127.0.0.1:8080'"), "{}", by_flags.out);
}

#[test]
fn env_says_what_no_variable_can_hold() {
    for (listen, word) in [("127.0.0.1:0", "port 0"), ("unix:/tmp/countersign-env.sock", "Unix sockets")] {
        let config =
            format!("[proxy]\nlisten = [\"{listen}\"]\n[[route]]\nupstream = \"https://a.example\"\nauth = \"none\"\n");
        let output = call(folder(&config).path(), &["env"], &[]);
        assert_eq!((output.code, output.out.as_str()), (1, ""));
        assert!(output.err.contains(word), "{}", output.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_returns_once_the_running_one_is_ready() {
    let tokens = TokenEndpoint::start(vec![AppClient {
        id: "orders".to_owned(),
        secret: "local-secret-9d".to_owned(),
        scopes: vec!["orders/read".to_owned()],
        token_lifetime: std::time::Duration::from_hours(1),
    }])
    .await;
    let held = Arc::new(Notify::new());
    tokens.script(Answer::Hold(Arc::clone(&held)));
    let config = format!(
        "[proxy]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[auth.a]\n\
         kind = \"client-credentials\"\ntoken_url = \"{}\"\nclient_id = \"orders\"\nclient_secret = {{ env = \"SECRET\" }}\n\
         [[route]]\nupstream = \"https://a.example\"\nauth = \"a\"\n",
        tokens.url()
    );
    let folder_of_run = folder(&config);
    let mut running = Running::start(folder_of_run.path(), &["run"], &[("SECRET", "local-secret-9d")]);
    let admin = running.address("admin").await.to_string();
    let config = config.replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"{admin}\""));
    let folder_of_wait = folder(&config);

    let early = call(folder_of_wait.path(), &["wait", "--timeout", "150ms"], &[]);
    assert_eq!((early.code, early.out.as_str()), (1, ""));
    assert!(early.err.contains("not ready after 150ms") && early.err.contains("first try under way"), "{}", early.err);
    let waiting = Running::start(folder_of_wait.path(), &["wait"], &[]);
    held.notify_one();
    assert_eq!(within(waiting.ended()).await, (0, String::new()));
    let by_address = call(folder_of_wait.path(), &["wait", "--admin", &admin], &[]);
    assert_eq!((by_address.code, by_address.err.as_str()), (0, ""));
    let healthy = call(folder_of_wait.path(), &["healthcheck", "--ready", "--admin", &admin], &[]);
    assert_eq!(healthy.code, 0);
}
