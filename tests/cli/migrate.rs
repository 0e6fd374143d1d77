//! `migrate`: the flags of aws-sigv4-proxy as a config.

use std::path::PathBuf;

use countersign::auth::spec::{Kind, PayloadSigning, SigV4};
use countersign::config::{self, Compiled, Environment, Source};
use tempfile::TempDir;

use crate::process::{Output, call};

fn migrate(flags: &[&str]) -> Output {
    call(TempDir::new().unwrap().path(), &[&["migrate", "--"], flags].concat(), &[])
}

fn compiled(text: &str, variables: &[(&str, &str)]) -> Compiled {
    let source = Source { name: "migrated".to_owned(), text: text.to_owned(), folder: PathBuf::from(".") };
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    config::load(&source, &Environment::new(variables)).unwrap_or_else(|report| panic!("{report}\n{text}"))
}

fn signature(compiled: &Compiled) -> &SigV4 {
    match &compiled.schemes[0].kind {
        Kind::SigV4(sigv4) => sigv4,
        Kind::Bearer(_) => panic!("not a signature"),
    }
}

#[test]
fn every_flag_that_has_an_equivalent_is_carried_over() {
    let output = migrate(
        &[
            &[
                "aws-sigv4-proxy",
                "--name",
                "vpc-lattice-svcs",
                "--region",
                "ap-northeast-1",
                "--port",
                "127.0.0.1:9005",
            ][..],
            &["--host", "internal.example:8443", "--sign-host", "orders.example", "--unsigned-payload", "-v"],
            &["--role-arn", "arn:aws:iam::123456789012:role/invoke", "--strip", "X-Old", "-s", "Cookie"],
            &["--custom-headers", "x-team=blue,x-query=a=b,X-Team=green", "--transport.idle-conn-timeout", "1m30s"],
            &["--upstream-url-scheme=https"],
        ]
        .concat(),
    );
    let note = "--custom-headers gave way to what callers send; `set` replaces that\n";
    assert_eq!((output.code, output.err.as_str()), (0, note));
    let compiled = compiled(&output.out, &[]);
    assert_eq!(compiled.server.listen, ["127.0.0.1:9005".parse().unwrap()]);
    let sigv4 = signature(&compiled);
    assert_eq!((sigv4.region.as_str(), sigv4.service.as_str()), ("ap-northeast-1", "vpc-lattice-svcs"));
    assert_eq!(sigv4.payload, PayloadSigning::Unsigned);
    assert_eq!(sigv4.credentials.roles[0].arn, "arn:aws:iam::123456789012:role/invoke");
    let explained = {
        let folder = crate::process::folder(&output.out);
        let arguments = ["explain", "GET", "http://127.0.0.1:9005/a", "-H", "X-Old: 1", "-H", "cookie: c"];
        call(folder.path(), &arguments, &[]).out
    };
    for line in ["https://orders.example/a", "dials      internal.example:8443", "x-team: blue, green", "x-query: a=b"]
    {
        assert!(explained.contains(line), "{line}: {explained}");
    }
    assert!(!explained.contains("x-old: 1") && !explained.contains("cookie: c"), "{explained}");
    for line in ["pool_idle_timeout = \"90s\"", "level = \"debug\"", "server_name = \"internal.example\""] {
        assert!(output.out.contains(line), "{line}: {}", output.out);
    }
}

#[test]
fn what_has_no_equivalent_is_said_in_the_config_and_beside_it() {
    let output = migrate(
        &[
            &["--host", "abc123.execute-api.eu-west-1.amazonaws.com", "--no-verify-ssl", "--log-failed-requests"][..],
            &["--log-signing-process", "--duplicate-headers", "Authorization", "--strip-header", "x-aws-*"],
            &["--strip-param", "debug", "--upstream-url-scheme", "http", "--transport.idle-conn-timeout", "0"],
            &["--custom-headers", "broken\nlisten,Authorization=a", "--rate-limit", "5", "-s", "Authorization"],
        ]
        .concat(),
    );
    assert_eq!(output.code, 0, "{}", output.err);
    compiled(&output.out, &[]);
    for words in [
        "--no-verify-ssl has no equivalent: credentials are never sent to a server that anybody may be",
        "ca_file",
        "--log-failed-requests has no equivalent",
        "--log-signing-process has no equivalent",
        "--duplicate-headers has no equivalent",
        "--strip-header x-aws-* has no equivalent",
        "--strip-param has no equivalent",
        "--upstream-url-scheme http has no equivalent",
        "--transport.idle-conn-timeout 0 has no equivalent",
        "--port listened on every address",
        "--custom-headers: \"broken",
        "--custom-headers Authorization has no equivalent",
        "--rate-limit and --burst-limit have no equivalent",
    ] {
        assert!(output.err.contains(words), "{words}: {}", output.err);
        assert!(
            output.out.lines().any(|line| line.starts_with("# ") && line.contains(words)),
            "{words}: {}",
            output.out
        );
    }
}

#[test]
fn region_and_service_are_found_as_they_were() {
    for (host, variables, region, service) in [
        ("abc123.execute-api.eu-west-1.amazonaws.com", &[][..], "eu-west-1", "execute-api"),
        ("search-x.us-east-2.es.amazonaws.com", &[], "us-east-2", "es"),
        ("aps-workspaces.eu-north-1.amazonaws.com", &[], "eu-north-1", "aps"),
        ("api.example.com", &[], "us-east-1", "execute-api"),
        ("api.example.com", &[("AWS_REGION", "eu-west-3")], "eu-west-3", "execute-api"),
    ] {
        let output = migrate(&["--host", host, "--port", "localhost:8080"]);
        assert_eq!(output.code, 0, "{}", output.err);
        let compiled = compiled(&output.out, variables);
        assert_eq!((signature(&compiled).region.as_str(), signature(&compiled).service.as_str()), (region, service));
        assert_eq!(output.err.contains("--name is not given"), !host.contains("execute-api"), "{}", output.err);
    }
}

#[test]
fn flags_that_make_no_config_are_refused() {
    for (flags, code, words) in [
        (vec!["--region", "eu-west-1"], 64, "--host is missing"),
        (vec!["--host", "a.example", "--bogus"], 64, "--bogus"),
        (vec!["--host", "a.example", "--port", ":http"], 78, "error: --port: "),
        (vec!["--host", "a.example", "--role-arn", "arn:bad"], 78, "error: --role-arn: "),
    ] {
        let output = migrate(&flags);
        assert_eq!(output.code, code, "{}", output.err);
        assert!(output.err.contains(words), "{words}: {}", output.err);
    }
}
