//! The commands that print and end: `check`, `explain`, `healthcheck`, and what is not a command.

use tempfile::TempDir;

use crate::process::{call, folder};

const GOOD: &str = r#"
[auth.orders]
kind = "client-credentials"
token_url = "https://pool.auth.ap-northeast-1.amazoncognito.com/oauth2/token"
client_id = "orders-client"
client_secret = { env = "ORDERS_SECRET" }
scopes = ["orders/read"]

[auth.iam]
kind = "sigv4"
credentials = { static = { access_key_id = { env = "KEY_ID" }, secret_access_key = { env = "SECRET_KEY" } } }

[[route]]
path = "/orders"
strip_path = true
upstream = "https://abc123.execute-api.ap-northeast-1.amazonaws.com/prod"
auth = "orders"

[[route]]
path = "/iam"
upstream = "https://abc123.execute-api.ap-northeast-1.amazonaws.com/prod"
auth = "iam"
[route.request_headers]
set = { x-api-key = { env = "API_KEY" } }
remove = ["cookie"]
"#;

const VARIABLES: [(&str, &str); 4] = [
    ("ORDERS_SECRET", "orders-secret-1a"),
    ("KEY_ID", "AKIDCLITEST"),
    ("SECRET_KEY", "signing-secret-2b"),
    ("API_KEY", "api-key-3c"),
];

fn has_no_secret(text: &str) {
    for secret in ["orders-secret-1a", "signing-secret-2b", "api-key-3c"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}

#[test]
fn a_good_config_is_checked_and_its_routes_are_shown() {
    let folder = folder(GOOD);
    let output = call(folder.path(), &["check"], &VARIABLES);
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    let api = "https://abc123.execute-api.ap-northeast-1.amazonaws.com/prod";
    assert_eq!(
        output.out,
        format!(
            "route orders: main */orders -> {api}, auth orders\nroute iam: main */iam -> {api}, auth iam\nok: 2 routes\n"
        )
    );
}

#[test]
fn a_bad_config_is_shown_with_its_places_and_without_its_secrets() {
    let bad = GOOD.replace("client_id", "client_idd").replace("auth = \"iam\"", "auth = \"imma\"");
    let bad = bad.replace("{ env = \"ORDERS_SECRET\" }", "\"orders-secret-1a\"");
    let folder = folder(&bad);
    for command in ["check", "run"] {
        let output = call(folder.path(), &[command], &VARIABLES);
        assert_eq!((output.code, output.out.as_str()), (78, ""), "{command}");
        for text in ["client_idd", "countersign.toml:5:", "\"imma\"", "countersign.toml:22:", "countersign.toml:6:"] {
            assert!(output.err.contains(text), "{text}: {}", output.err);
        }
        has_no_secret(&output.err);
    }
    // The running one may well be fine: only its port is taken from the file.
    let output = call(folder.path(), &["healthcheck"], &VARIABLES);
    assert_eq!((output.code, output.out.as_str()), (1, ""));
    assert!(output.err.contains("no answer from 127.0.0.1:"), "{}", output.err);
}

#[test]
fn a_missing_variable_is_named() {
    let folder = folder(GOOD);
    let output = call(folder.path(), &["check"], &VARIABLES[1..]);
    assert_eq!(output.code, 78);
    assert!(output.err.contains("ORDERS_SECRET"), "{}", output.err);
}

#[test]
fn a_missing_config_is_told_with_all_places() {
    let empty = TempDir::new().unwrap();
    for command in ["check", "run"] {
        let output = call(empty.path(), &[command], &[]);
        assert_eq!(output.code, 78);
        for place in [
            "--config",
            "COUNTERSIGN_CONFIG",
            "COUNTERSIGN_CONFIG_TOML",
            "countersign.toml",
            "/etc/countersign/config.toml",
        ] {
            assert!(output.err.contains(place), "{}", output.err);
        }
    }
    let output = call(empty.path(), &["check", "--config", "nowhere.toml"], &[]);
    assert_eq!(output.code, 78);
    assert!(output.err.contains("nowhere.toml") && output.err.contains("No such file"), "{}", output.err);
}

#[test]
fn the_config_may_come_from_the_environment() {
    let empty = TempDir::new().unwrap();
    let with = |name: &'static str, value: &str| {
        let mut variables: Vec<(&str, &str)> = VARIABLES.to_vec();
        variables.push((name, value));
        call(empty.path(), &["check"], &variables)
    };
    assert_eq!(with("COUNTERSIGN_CONFIG_TOML", GOOD).code, 0);
    let wrong = with("COUNTERSIGN_CONFIG_TOML", "route = 1");
    assert_eq!(wrong.code, 78);
    assert!(wrong.err.contains("$COUNTERSIGN_CONFIG_TOML:1:"), "{}", wrong.err);
    let elsewhere = folder(GOOD);
    let file = elsewhere.path().join("countersign.toml");
    assert_eq!(with("COUNTERSIGN_CONFIG", file.to_str().unwrap()).code, 0);
}

#[test]
fn unknown_arguments_are_a_mistake_of_the_caller() {
    let folder = folder(GOOD);
    for arguments in
        [&["check", "--bogus"][..], &["bogus"], &[], &["explain", "GET"], &["explain", "G T", "http://localhost/"]]
    {
        let output = call(folder.path(), arguments, &VARIABLES);
        assert_eq!((output.code, output.out.as_str()), (64, ""), "{arguments:?}");
        assert!(output.err.contains("Usage") || output.err.contains("error"), "{}", output.err);
    }
    for arguments in [["--help"], ["--version"]] {
        let output = call(folder.path(), &arguments, &[]);
        assert_eq!((output.code, output.err.as_str()), (0, ""), "{arguments:?}");
        assert!(output.out.contains("countersign"));
    }
}

#[test]
fn a_token_route_is_explained() {
    let folder = folder(GOOD);
    let arguments =
        ["explain", "GET", "http://localhost:8080/orders/42?a=b", "-H", "Authorization: Bearer mine", "-H", "x-a: 1"];
    let output = call(folder.path(), &arguments, &VARIABLES);
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    for line in [
        "route      orders (path /orders, taken off)",
        "sends      GET https://abc123.execute-api.ap-northeast-1.amazonaws.com/prod/42?a=b",
        "drops      authorization",
        "x-a: 1",
        "authorization: Bearer <token>",
        "token of client orders-client from https://pool.auth",
    ] {
        assert!(output.out.contains(line), "{line}: {}", output.out);
    }
    assert!(!output.out.contains("mine"), "{}", output.out);
    has_no_secret(&output.out);
}

#[test]
fn a_signed_route_is_explained_with_its_canonical_request() {
    let folder = folder(GOOD);
    let arguments =
        ["explain", "POST", "http://localhost:8080/iam/x?b=2&a=1", "-H", "cookie: c", "-H", "x-amz-meta: m"];
    let output = call(folder.path(), &arguments, &VARIABLES);
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    for line in [
        "iam: SigV4 for execute-api in ap-northeast-1 with static keys",
        "x-api-key: <secret>",
        "canonical request (with an empty body):\nPOST\n/prod/iam/x\na=1&b=2\n",
        "host:abc123.execute-api.ap-northeast-1.amazonaws.com\n",
        "x-amz-meta:m\n",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ] {
        assert!(output.out.contains(line), "{line}: {}", output.out);
    }
    assert!(!output.out.contains("cookie: c"), "{}", output.out);
    has_no_secret(&output.out);
}

#[test]
fn what_would_be_refused_is_explained_as_refused() {
    let folder = folder(GOOD);
    for (url, text) in [
        ("http://localhost:8080/nowhere", "404 no-route"),
        ("http://evil.test/orders", "404 no-route"),
        ("http://localhost:8080/orders/%2e%2e/x", "400 bad-request"),
    ] {
        let output = call(folder.path(), &["explain", "GET", url], &VARIABLES);
        assert_eq!(output.code, 1, "{}", output.out);
        assert!(output.err.contains(text), "{}", output.err);
    }
    let relative = call(folder.path(), &["explain", "GET", "/orders"], &VARIABLES);
    assert_eq!(relative.code, 64);
}

#[test]
fn every_shell_gets_completions() {
    for (shell, words) in
        [("bash", "_countersign()"), ("zsh", "#compdef countersign"), ("fish", "complete -c countersign")]
    {
        let output = call(TempDir::new().unwrap().path(), &["completions", shell], &[]);
        assert!(output.code == 0 && output.out.contains(words) && output.out.contains("healthcheck"), "{output:?}");
    }
}
