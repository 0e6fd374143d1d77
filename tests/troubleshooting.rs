//! `docs/troubleshooting.md` is the table of causes, written out. `BLESS=1 cargo test --test troubleshooting` rewrites it.

#![cfg(test)]

use std::fmt::Write as _;
use std::path::Path;

use countersign::diagnosis::{Cause, Chapter};

const FILE: &str = "docs/troubleshooting.md";
const HEAD: &str = "\
# Why did it fail?

countersign names the cause of a failure by a code of this page:

- on the answer: `x-countersign-hint: CODE: what it most likely is (what speaks for it). Fix: what to do. Or: CODE, CODE`,
  behind API Gateway's refusals and countersign's own errors alike; in the body of its own errors, as `hint`;
- in the log: once in full (`target: diagnosis`), then counted, at the tenth, hundredth and thousandth time; the line of
  every request that failed has the code as `cause`;
- before any request: `countersign check --online` says it of each credential that cannot be fetched.

A refusal of API Gateway often fits several causes. The likeliest comes first, the others are named behind `Or:`. What the
API's own code answers is passed on without a hint. Evidence never holds a token, a key, a query value or a body; what a
token says of itself is read without verifying it, for these words alone.

Bodies are looked at where they are held anyway: small text of a 4xx, on routes that add a secret. Elsewhere the header
fields tell, which is all that a REST API needs and less than an HTTP API does.

Where API Gateway quotes the canonical request that it would have signed, that is compared with the one that was signed, and
the first line that differs is the evidence.

";

fn rendered() -> String {
    let mut page = HEAD.to_owned();
    for chapter in Chapter::ALL {
        let title = chapter.title();
        // Writing to a String cannot go wrong.
        let _infallible = writeln!(page, "- [{title}](#{})", anchor(title));
    }
    for chapter in Chapter::ALL {
        let _infallible = write!(
            page,
            "\n## {}\n\n| code | what is seen | most likely | what to do |\n| --- | --- | --- | --- |\n",
            chapter.title()
        );
        for entry in Cause::ALL.iter().map(|cause| cause.entry()).filter(|entry| entry.chapter == *chapter) {
            let cell = |text: &str| text.replace('|', "\\|").replace('<', "&lt;");
            let (sees, is, fix) = (cell(entry.sees), cell(entry.is), cell(entry.fix));
            let _infallible = writeln!(page, "| <a id=\"{0}\"></a>`{0}` | {sees} | {is} | {fix} |", entry.code);
        }
    }
    page
}

/// As GitHub and others make them.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the program reads no environment here; the test's own switch is one")]
fn the_troubleshooting_page_is_the_table_of_causes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let page = rendered();
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "{FILE} is old: run `BLESS=1 cargo test --test troubleshooting`");
}

/// Causes that no stand-in can bring about; `auth::diagnose` and `diagnosis::transport` have unit tests of them.
const UNPROVOKED: [&str; 2] = ["credential-failed", "network-unreachable"];

#[test]
fn every_cause_is_provoked_by_a_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files =
        ["answers", "cache", "credentials", "logins", "signatures", "way"].map(|name| format!("it/causes/{name}.rs"));
    let files = files.into_iter().chain(["cli/causes.rs", "cli/credentials.rs"].map(ToOwned::to_owned));
    let text: String = files.map(|file| std::fs::read_to_string(tests.join(file)).unwrap()).collect();
    let named = |code: &str| text.contains(&format!("\"{code}\"")) || text.contains(&format!("{code}: "));
    let missing: Vec<&str> = Cause::ALL.iter().map(|cause| cause.code()).filter(|code| !named(code)).collect();
    assert_eq!(missing, UNPROVOKED);
}
