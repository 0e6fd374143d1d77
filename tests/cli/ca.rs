//! `countersign ca`: the developer's own authority, and what `check` says of one.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::process::{API, call, folder};

fn config(forward: &str) -> String {
    format!(
        "[proxy.forward]\n{forward}\n[[route]]\npath = \"/a\"\nauth = \"none\"\nupstream = \"https://{API}/prod\"\n\
         [[route]]\nhost = \"orders.local\"\nauth = \"none\"\nupstream = \"https://other.example\"\n"
    )
}

const INTERCEPT: &str = "connect = \"intercept\"\nca_cert = \"ca.pem\"\nca_key = \"ca-key.pem\"";

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn an_authority_is_made_once_and_then_in_order() {
    let folder = folder(&config(INTERCEPT));
    let before = call(folder.path(), &["check"], &[]);
    assert_eq!(before.code, 78, "{}", before.out);
    let made = call(folder.path(), &["ca", "init"], &[]);
    assert_eq!((made.code, made.err.as_str()), (0, ""));
    for wanted in [
        API,
        "orders.local",
        "update-ca-certificates",
        "add-trusted-cert",
        "-addstore Root",
        "NODE_EXTRA_CA_CERTS",
        "SSL_CERT_FILE",
        "keytool",
    ] {
        assert!(made.out.contains(wanted), "{wanted}: {}", made.out);
    }
    assert!(!made.out.contains("other.example") && !made.out.contains("In the config"), "{}", made.out);
    let key = read(folder.path(), "ca-key.pem");
    let mode = std::fs::metadata(folder.path().join("ca-key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----") && !made.out.contains(key.lines().nth(1).unwrap()));
    let checked = call(folder.path(), &["check"], &[]);
    assert_eq!((checked.code, checked.err.as_str()), (0, ""));
    assert!(!checked.out.contains("warning"), "{}", checked.out);
    let again = call(folder.path(), &["ca", "init"], &[]);
    assert!(again.code == 1 && again.err.contains("is there already"), "{}", again.err);
    assert_eq!(read(folder.path(), "ca-key.pem"), key, "nothing was written over");
    std::fs::remove_file(folder.path().join("ca.pem")).unwrap();
    let half = call(folder.path(), &["ca", "init"], &[]);
    assert!(half.code == 1 && half.err.contains("ca-key.pem is there already"), "{}", half.err);
    assert!(!folder.path().join("ca.pem").exists());
    let trust = call(folder.path(), &["ca", "trust"], &[]);
    assert!(trust.code == 1 && trust.err.contains("countersign ca init"), "{}", trust.err);
}

#[test]
fn a_config_without_the_keys_is_told_what_to_add() {
    let folder = folder(&config("connect = \"refuse\""));
    let made = call(folder.path(), &["ca", "init"], &[]);
    assert!(made.code == 0 && made.out.contains("connect = \"intercept\""), "{} {}", made.out, made.err);
    assert_eq!(call(folder.path(), &["ca", "trust"], &[]).code, 0);
    std::fs::write(folder.path().join("countersign.toml"), config(INTERCEPT)).unwrap();
    assert_eq!(call(folder.path(), &["check"], &[]).code, 0);
}

#[test]
fn check_tells_what_is_wrong_with_the_authority() {
    let folder = folder(&config(INTERCEPT));
    assert_eq!(call(folder.path(), &["ca", "init"], &[]).code, 0);
    let key = folder.path().join("ca-key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let open = call(folder.path(), &["check"], &[]);
    assert!(
        open.code == 78 && open.err.contains("`ca_key` is open to others") && open.err.contains("chmod 600"),
        "{}",
        open.err
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let more = config(INTERCEPT) + "[[route]]\npath = \"/new\"\nauth = \"none\"\nupstream = \"https://new.example\"\n";
    std::fs::write(folder.path().join("countersign.toml"), more).unwrap();
    let uncovered = call(folder.path(), &["check"], &[]);
    assert!(uncovered.code == 0 && uncovered.out.contains("cannot vouch for \"new.example\""), "{}", uncovered.out);
}

#[test]
fn https_urls_are_explained_as_a_program_would_ask_for_them() {
    let folder = folder(&config("connect = \"refuse\""));
    let explain = |method: &str, url: &str| {
        let output = call(folder.path(), &["explain", method, url], &[]);
        (output.code, output.out + &output.err)
    };
    let url = format!("https://{API}/prod/a/42");
    let (code, text) = explain("GET", &url);
    assert!(code == 1 && text.contains("405"), "{text}");
    let write = |forward: &str| std::fs::write(folder.path().join("countersign.toml"), config(forward)).unwrap();
    write("connect = \"tunnel\"\nconnect_hosts = [\"*.amazonaws.com:443\"]");
    let (code, text) = explain("GET", &url);
    assert!(code == 0 && text.contains("carried unseen, without a credential"), "{text}");
    assert!(explain("CONNECT", "x.amazonaws.com:443").1.contains("x.amazonaws.com:443"));
    let (code, text) = explain("GET", "https://evil.test/");
    assert!(code == 1 && text.contains("connect_hosts"), "{text}");
    assert_eq!(call(folder.path(), &["ca", "init"], &[]).code, 0);
    write(INTERCEPT);
    let (code, text) = explain("GET", &url);
    assert!(code == 0 && text.contains("behind a CONNECT") && text.contains(&format!("GET {url}")), "{text}");
    let (code, text) = explain("CONNECT", &format!("{API}:443"));
    assert!(code == 0 && text.contains("ends here"), "{text}");
}
