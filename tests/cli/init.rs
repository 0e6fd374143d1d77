//! `init`: a config from flags.

use tempfile::TempDir;

use crate::process::{Output, call};

const API: &str = "https://abc123.execute-api.eu-west-1.amazonaws.com/prod";

fn init(folder: &TempDir, flags: &[&str]) -> Output {
    call(folder.path(), &[&["init"], flags].concat(), &[])
}

#[test]
fn what_it_writes_is_a_good_config() {
    let token = "https://pool.auth.eu-west-1.amazoncognito.com/oauth2/token";
    for (flags, variable, auth) in [
        (vec!["--auth", "none"], None, "none"),
        (vec!["--auth", "sigv4"], None, "api"),
        (
            vec![
                "--auth",
                "sigv4",
                "--profile",
                "te\"am",
                "--role-arn",
                "arn:aws:iam::123456789012:role/x",
                "--external-id",
                "42",
            ],
            None,
            "api",
        ),
        (
            [
                ["--auth", "client-credentials", "--token-url", token, "--client-id", "a"],
                ["--client-secret-env", "THE_SECRET", "--scope", "a/b", "--scope", "c"],
            ]
            .concat(),
            Some("THE_SECRET"),
            "api",
        ),
        (
            [
                ["--auth", "cognito-user", "--user-pool-id", "eu-west-1_AbCdEfGhI", "--client-id"],
                ["3i67na56gveii7qkf0liksptl8", "--username", "exuser", "--password-env", "THE_PASSWORD"],
            ]
            .concat(),
            Some("THE_PASSWORD"),
            "api",
        ),
    ] {
        let folder = TempDir::new().unwrap();
        let output = init(&folder, &[&["--upstream", API, "--listen", "127.0.0.1:8111"], &flags[..]].concat());
        assert_eq!((output.code, output.err.as_str()), (0, ""), "{flags:?}");
        assert!(output.out.starts_with("wrote countersign.toml\n"), "{}", output.out);
        if let Some(variable) = variable {
            assert!(output.out.contains(&format!("set {variable} ")), "{}", output.out);
            let unset = call(folder.path(), &["check"], &[]);
            assert_eq!(unset.code, 78);
            assert!(unset.err.contains(&format!("environment variable {variable} ")), "{}", unset.err);
            assert!(unset.err.ends_with("1 error in countersign.toml\n"), "{}", unset.err);
        }
        let variables: Vec<(&str, &str)> = variable.map(|name| (name, "init-secret-1a2b3c")).into_iter().collect();
        let check = call(folder.path(), &["check"], &variables);
        assert_eq!((check.code, check.err.as_str()), (0, ""), "{flags:?}");
        assert_eq!(check.out, format!("route api: main */ -> {API}, auth {auth}\nok: 1 route\n"));
        let text = std::fs::read_to_string(folder.path().join("countersign.toml")).unwrap();
        assert!(text.contains("listen = [\"127.0.0.1:8111\"]"), "{text}");
        assert!(text.lines().filter(|line| line.starts_with("# ")).count() >= 3, "{text}");
    }
}

#[test]
fn a_file_that_is_there_stays_as_it_is() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "mine").unwrap();
    let flags = ["--upstream", API, "--auth", "none", "--output", "mine.toml"];
    let output = init(&folder, &flags);
    assert_eq!((output.code, output.out.as_str()), (1, ""));
    assert!(output.err.contains("mine.toml is there already"), "{}", output.err);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    // Not even through a link that leads nowhere.
    std::os::unix::fs::symlink("nowhere.toml", folder.path().join("link.toml")).unwrap();
    assert_eq!(init(&folder, &["--upstream", API, "--auth", "none", "--output", "link.toml"]).code, 1);
    assert!(!folder.path().join("nowhere.toml").exists());
}

#[test]
fn what_would_not_be_right_is_not_written() {
    let folder = TempDir::new().unwrap();
    for (flags, code, words) in [
        (vec!["--upstream", "http://far.example/", "--auth", "none"], 78, "error: --upstream: "),
        (vec!["--upstream", "https://far.example/", "--auth", "sigv4"], 78, "--upstream: the region"),
        (vec!["--auth", "client-credentials"], 64, "--upstream, --token-url, --client-id, --client-secret-env"),
        (vec!["--upstream", API], 64, "--auth"),
        (
            vec!["--upstream", API, "--auth", "none", "--region", "eu-west-1"],
            64,
            "--region means nothing to --auth none",
        ),
        (vec!["--upstream", API, "--auth", "magic"], 64, "cognito-user"),
    ] {
        let output = init(&folder, &flags);
        assert_eq!((output.code, output.out.as_str()), (code, ""), "{flags:?}");
        assert!(output.err.contains(words), "{words}: {}", output.err);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn it_may_go_to_standard_output() {
    let folder = TempDir::new().unwrap();
    let output = init(&folder, &["--upstream", API, "--auth", "sigv4", "--output", "-"]);
    assert_eq!((output.code, output.err.as_str()), (0, ""));
    assert!(output.out.contains("kind = \"sigv4\""), "{}", output.out);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
