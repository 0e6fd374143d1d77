//! Modules import only downwards, and third-party crates stay in their rooms.
//!
//! The ranks are read from the table in `src/lib.rs`, so that what is written there is what holds. The source is read as
//! tokens, without comments and texts; `use` trees and paths are followed, `super` included.

#![cfg(test)]
#![expect(clippy::string_slice, reason = "cut only where `find` and `char_indices` say that a character begins")]

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Paths of third-party crates, and where alone they may be named: files or folders of `src/`.
const ROOMS: [(&[&str], &[&str]); 27] = [
    (&["reqwest"], &["auth/"]),
    // The one error of a client that cannot be built; a wrapper would only rename it.
    (&["reqwest", "Error"], &["auth/", "app.rs"]),
    (&["aws_config"], &["auth/"]),
    (&["aws_credential_types"], &["auth/"]),
    (&["aws_sdk_sts"], &["auth/"]),
    (&["aws_sigv4"], &["auth/"]),
    (&["aws_smithy_async"], &["auth/"]),
    (&["aws_smithy_runtime_api"], &["auth/"]),
    // `explain` writes a date as AWS does.
    (&["aws_smithy_types"], &["auth/", "proxy/explain.rs"]),
    (&["crypto_bigint"], &["auth/srp.rs"]),
    (&["redis"], &["auth/shared/"]),
    (&["clap"], &["cli/"]),
    (&["clap_complete"], &["cli/"]),
    (&["listenfd"], &["cli/"]),
    (&["sd_notify"], &["cli/"]),
    (&["toml"], &["config/"]),
    (&["annotate_snippets"], &["config/"]),
    (&["strsim"], &["config/"]),
    (&["tracing_subscriber"], &["telemetry/"]),
    (&["opentelemetry_proto"], &["telemetry/traces/otlp.rs"]),
    (&["prost"], &["telemetry/traces/otlp.rs"]),
    (&["hyper", "client"], &["proxy/pool/"]),
    (&["h2"], &["proxy/pool/"]),
    // Resource limits, signals that are passed on, and clients that are gone.
    (&["rustix"], &["capacity.rs", "cli/exec.rs", "server/orphan.rs"]),
    (&["hyper", "server"], &["server/"]),
    (&["memmap2"], &["message/body/room.rs"]),
    (&["arc_swap"], &["proxy/", "auth/builder.rs", "auth/mod.rs", "auth/signer.rs", "sync.rs", "tls/serving.rs"]),
];
/// The same for the standard library.
const ENVIRONMENT: (&[&str], &[&str]) = (&["std", "env"], &["cli/"]);

/// Modules and their ranks; a module imports from lower ranks alone.
type Ranks = BTreeMap<String, u32>;

/// A file of `src/`: its path from there, with `/`.
struct Source {
    file: String,
    text: String,
}

/// An import that may not be.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: String,
    line: usize,
    imported: String,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: imports `{}`: {}", self.file, self.line, self.imported, self.rule)
    }
}

#[test]
fn modules_import_only_downwards_and_crates_stay_in_their_rooms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    let lib = sources.iter().find(|source| source.file == "lib.rs").expect("src/lib.rs");
    let ranks = ranks(&lib.text);
    assert!(ranks.len() > 10 && sources.len() > 30, "{ranks:?}, {} files", sources.len());
    let unranked: Vec<&str> = sources
        .iter()
        .map(|source| top_module(&source.file))
        .filter(|module| !ranks.contains_key(*module) && *module != "lib")
        .collect();
    assert!(unranked.is_empty(), "not in the table of src/lib.rs: {unranked:?}");
    let violations: Vec<String> =
        sources.iter().flat_map(|source| check(source, &ranks)).map(|violation| violation.to_string()).collect();
    assert!(violations.is_empty(), "{} imports that may not be:\n{}", violations.len(), violations.join("\n"));
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            sources.push(Source { file, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

/// The rows `//! | 1 | [`tls`], [`route`]: … |` of the table in `src/lib.rs`.
fn ranks(lib: &str) -> Ranks {
    let mut ranks = Ranks::new();
    for line in lib.lines() {
        let Some(row) = line.strip_prefix("//! |") else { continue };
        let Some((rank, modules)) = row.split_once('|') else { continue };
        let Ok(rank) = rank.trim().parse() else { continue };
        let names = modules.split("[`").skip(1).filter_map(|rest| rest.split_once("`]"));
        ranks.extend(names.map(|(name, _)| (name.to_owned(), rank)));
    }
    let top = ranks.get("cli").copied().unwrap_or_default();
    ranks.insert("main".to_owned(), top);
    ranks
}

/// `auth/oauth.rs` and `auth/mod.rs` belong to `auth`, `clock.rs` to `clock`.
fn top_module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

fn check(source: &Source, ranks: &Ranks) -> Vec<Violation> {
    let own = top_module(&source.file);
    let mut violations = Vec::new();
    for (line, path) in paths(source) {
        let imported = path.join("::");
        let mut found = |rule: String| {
            violations.push(Violation { file: source.file.clone(), line, imported: imported.clone(), rule });
        };
        match path.as_slice() {
            [root, module, ..] if root == "crate" || root == "countersign" => {
                let (Some(from), Some(to)) = (ranks.get(own), ranks.get(module)) else { continue };
                // `main` is the binary; `cli` is all that it starts.
                let is_own = module == own || (own == "main" && module == "cli");
                if !is_own && to >= from {
                    found(format!("`{own}` has rank {from} and may import from lower ranks, `{module}` has rank {to}"));
                }
            }
            _ => {
                // The longest rule counts: it is an exception from the shorter one.
                let rules = ROOMS.iter().chain([&ENVIRONMENT]);
                let rule = rules.filter(|(named, _)| starts_with(&path, named)).max_by_key(|(named, _)| named.len());
                let Some((named, rooms)) = rule else { continue };
                if !rooms.iter().any(|room| source.file.starts_with(room) || room.trim_end_matches('/') == own) {
                    found(format!("`{}` may be named only in {}", named.join("::"), rooms.join(", ")));
                }
            }
        }
    }
    violations
}

fn starts_with(path: &[String], named: &[&str]) -> bool {
    path.len() >= named.len() && path.iter().zip(named).all(|(part, name)| part == name)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Step,
    Sign(char),
}

/// Every path in the file, from the crate's root where it is one of ours: `crate::auth::error`, `hyper::body::Incoming`.
fn paths(source: &Source) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(&source.text);
    let mut found = Vec::new();
    // Where the names stand: the file's module, then the inline modules around them, each with the depth of its brace.
    let mut module = file_module(&source.file);
    let (mut inline, mut depth): (Vec<usize>, usize) = (Vec::new(), 0);
    let mut at = 0;
    while let Some((line, token)) = tokens.get(at) {
        let line = *line;
        match token {
            Token::Sign('{') => depth += 1,
            Token::Sign('}') => {
                depth = depth.saturating_sub(1);
                if inline.last() == Some(&depth) {
                    inline.pop();
                    module.pop();
                }
            }
            Token::Word(word) if word == "mod" => {
                if let (Some((_, Token::Word(name))), Some((_, Token::Sign('{')))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                {
                    module.push(name.clone());
                    inline.push(depth);
                    at += 1;
                }
            }
            Token::Word(word) if word == "use" => {
                let mut trees = Vec::new();
                at = use_tree(&tokens, at + 1, &[], &mut trees);
                found.extend(trees.into_iter().map(|(line, path)| (line, from_root(path, &module))));
                continue;
            }
            Token::Word(_) => {
                let (end, path) = path_at(&tokens, at);
                if path.len() > 1 {
                    found.push((line, from_root(path, &module)));
                }
                at = end;
                continue;
            }
            Token::Step | Token::Sign(_) => {}
        }
        at += 1;
    }
    found
}

/// `auth/oauth.rs` is `auth::oauth`; `auth/mod.rs` is `auth`; files with `#[path]` are taken for what their name says.
fn file_module(file: &str) -> Vec<String> {
    let mut module: Vec<String> = file.trim_end_matches(".rs").split('/').map(ToOwned::to_owned).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

/// `super` and `self` in front resolved.
fn from_root(path: Vec<String>, module: &[String]) -> Vec<String> {
    let mut place = module.to_vec();
    let relative = path.iter().take_while(|part| matches!(part.as_str(), "self" | "super")).count();
    if relative == 0 {
        return path;
    }
    for part in &path[..relative] {
        if part == "super" {
            place.pop();
        }
    }
    let rest = path[relative..].iter().cloned();
    std::iter::once("crate".to_owned()).chain(place).chain(rest).collect()
}

/// The words joined by `::` from here on, and where they end.
fn path_at(tokens: &[(usize, Token)], mut at: usize) -> (usize, Vec<String>) {
    let mut path = Vec::new();
    while let Some((_, Token::Word(word))) = tokens.get(at) {
        path.push(word.clone());
        at += 1;
        let goes_on = matches!(tokens.get(at..at + 2), Some([(_, Token::Step), (_, Token::Word(_))]));
        if !goes_on {
            break;
        }
        at += 1;
    }
    (at, path)
}

/// Follows one tree of a `use` from `at`, under `prefix`; returns where it ends.
fn use_tree(
    tokens: &[(usize, Token)],
    mut at: usize,
    prefix: &[String],
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let mut path = prefix.to_vec();
    let mut line = tokens.get(at).map_or(0, |(line, _)| *line);
    loop {
        match tokens.get(at) {
            Some((here, Token::Word(word))) if word == "as" => {
                line = *here;
                at += 2;
            }
            Some((here, Token::Word(word))) => {
                line = *here;
                path.push(word.clone());
                at += 1;
            }
            Some((_, Token::Step | Token::Sign('*'))) => at += 1,
            Some((_, Token::Sign('{'))) => {
                at += 1;
                while !matches!(tokens.get(at), None | Some((_, Token::Sign('}')))) {
                    at = use_tree(tokens, at, &path, found);
                    if matches!(tokens.get(at), Some((_, Token::Sign(',')))) {
                        at += 1;
                    }
                }
                return at + 1;
            }
            _ => {
                found.push((line, path));
                return at;
            }
        }
    }
}

/// Words and signs with their lines; comments, texts, characters and lifetimes left out.
fn tokens(text: &str) -> Vec<(usize, Token)> {
    let mut rest = text;
    let mut line = 1;
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment(rest),
            '"' => quoted(rest),
            'r' | 'b' | 'c' if literal(rest).is_some() => literal(rest).unwrap(),
            '\'' => character(rest),
            ':' if rest.starts_with("::") => {
                tokens.push((line, Token::Step));
                2
            }
            _ if first.is_alphanumeric() || first == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                tokens.push((line, Token::Word(rest[..end].to_owned())));
                end
            }
            _ => {
                if !first.is_whitespace() {
                    tokens.push((line, Token::Sign(first)));
                }
                first.len_utf8()
            }
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of a block comment; they nest.
fn comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        let step = if here.starts_with(b"/*") {
            depth += 1;
            2
        } else if here.starts_with(b"*/") {
            depth -= 1;
            2
        } else {
            1
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a text in quotes.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// The length of a text or byte with a prefix: `r"…"`, `br#"…"#`, `b"…"`, `b'…'`, `c"…"`.
fn literal(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c| !matches!(c, 'r' | 'b' | 'c'))?;
    let behind = &rest[prefix..];
    if prefix > 2 {
        return None;
    }
    if !rest[..prefix].contains('r') {
        let length = if behind.starts_with('"') { quoted(behind) } else { character(behind) };
        return (behind.starts_with(['"', '\'']) && length > 1).then_some(prefix + length);
    }
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    let body = behind[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(prefix + hashes + 1 + body.find(&end)? + end.len())
}

/// The length of a character; of a lifetime only its `'`.
fn character(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let behind = at + escaped.len_utf8();
            rest[behind..].find('\'').map_or(1, |end| behind + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

fn source(file: &str, text: &str) -> Source {
    Source { file: file.to_owned(), text: text.to_owned() }
}

fn example_ranks() -> Ranks {
    ranks(
        "//! | 0 | [`clock`], [`secret`]: values |\n//! | 2 | [`auth`]; [`server`] |\n//! | 3 | [`proxy`] |\n//! | 7 | [`cli`] |",
    )
}

#[test]
fn the_table_is_read() {
    let ranks: Vec<_> = example_ranks().into_iter().collect();
    let expected = [("auth", 2), ("cli", 7), ("clock", 0), ("main", 7), ("proxy", 3), ("secret", 0), ("server", 2)];
    assert_eq!(ranks, expected.map(|(module, rank)| (module.to_owned(), rank)));
}

#[test]
fn an_import_upwards_or_sideways_is_found_in_every_spelling() {
    let text = r##"
//! crate::proxy in a doc is no import.
use std::fmt; // nor crate::proxy here
use crate::clock::Clock;
use crate::{
    clock::{self, Moment as When},
    proxy::{Proxy, rewrite::{Outbound}},
    server,
};
fn f<'a>(x: &'a str) -> char { /* crate::cli /* nested */ crate::cli */ let _ = "crate::cli \" crate::cli"; '"' }
const RAW: &str = r#"crate::cli "quoted" crate::cli"#;
fn g() -> crate::proxy::Proxy { super::super::server::drain() }
mod tests {
    use super::*;
    use super::super::error::Own;
    use super::super::super::cli::Cli;
}
use super::super::cli as other;
pub(crate) use crate::auth::error;
"##;
    let violations = check(&source("auth/oauth.rs", text), &example_ranks());
    let found: Vec<_> = violations.iter().map(|found| (found.line, found.imported.as_str())).collect();
    assert_eq!(
        found,
        [
            (7, "crate::proxy::Proxy"),
            (7, "crate::proxy::rewrite::Outbound"),
            (8, "crate::server"),
            (12, "crate::proxy::Proxy"),
            (12, "crate::server::drain"),
            (16, "crate::cli::Cli"),
            (18, "crate::cli"),
        ]
    );
    assert_eq!(
        violations[2].to_string(),
        "src/auth/oauth.rs:8: imports `crate::server`: `auth` has rank 2 and may import from lower ranks, `server` has rank 2"
    );
}

#[test]
fn a_crate_outside_its_room_is_found() {
    let lines = [
        ("proxy/relay.rs", "use reqwest::Client;"),
        ("app.rs", "let client = reqwest::Client::new();"),
        ("proxy/forward.rs", "use hyper::{body::Incoming, client::conn::http1};"),
        ("message/body.rs", "type Server = hyper::server::conn::http1::Builder;"),
        ("auth/oauth.rs", "use arc_swap::ArcSwap;"),
        ("auth/aws.rs", "fn f() { ::std::env::var_os(\"X\"); }"),
        ("secret.rs", "use std::{env, fmt};"),
        ("server/drain.rs", "use toml;"),
        ("proxy/guard.rs", "use aws_smithy_types::DateTime;"),
        ("telemetry/metrics.rs", "use clap::Parser as _;"),
    ];
    for (file, text) in lines {
        let violations = check(&source(file, text), &example_ranks());
        assert!(matches!(violations.as_slice(), [one] if one.line == 1), "{file}: {text}: {violations:?}");
    }
}

#[test]
fn what_stays_in_its_room_is_not_found() {
    let lines = [
        ("auth/control.rs", "use reqwest::Client;"),
        ("app.rs", "Control(#[from] reqwest::Error),"),
        ("message/body.rs", "use hyper::body::Incoming;"),
        ("proxy/pool/dial.rs", "use hyper::client::conn::{http1, http2};"),
        ("server/connection.rs", "use hyper::server::conn;"),
        ("sync.rs", "use arc_swap::ArcSwap;"),
        ("proxy/explain.rs", "let written = aws_smithy_types::DateTime::from(time);"),
        ("cli/mod.rs", "use crate::proxy::explain; use std::env;"),
        ("main.rs", "fn main() -> std::process::ExitCode { countersign::cli::main() }"),
        (
            "telemetry/log.rs",
            "(\"aws_config\", 1); let version = env!(\"CARGO_PKG_VERSION\"); let c = b'\"'; // toml::x",
        ),
        ("auth/mod.rs", "use self::error::AuthError; use crate::secret::Secret; mod tests { use super::*; }"),
    ];
    for (file, text) in lines {
        assert_eq!(check(&source(file, text), &example_ranks()), [], "{file}: {text}");
    }
}
