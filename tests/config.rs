//! The config through its front door: every bad file gives exactly the report that is kept beside it, and the reference
//! says what the code does.
//!
//! `BLESS=1 cargo test --test config` rewrites the reports; read them before committing.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::wildcard_enum_match_arm,
    reason = "everything here is a test, and clippy knows only functions that are marked as one"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use countersign::config::raw::{Key, SECTIONS, Section, Type};
use countersign::config::{Compiled, Environment, Hash, Report, Source, load};
use countersign::tls::developer;

/// In place of the folder that a run happens to use.
const FOLDER: &str = "/etc/countersign";

fn environment() -> Environment {
    Environment::new(
        [
            ("SECRET", "hunter2-from-the-environment"),
            ("HOST_NAME", "abc123.execute-api.eu-west-1.amazonaws.com"),
            ("BROKEN", "me:hunter2@host:hunter2"),
            ("LINES", "hunter2\nhunter2"),
            ("EMPTY", ""),
            ("ORDERS_CLIENT_SECRET", "hunter2"),
            ("ORDERS_API_KEY", "hunter2"),
            ("PERSON_PASSWORD", "hunter2"),
            ("PERSON_CLIENT_SECRET", "hunter2"),
            // Base32, so that it is a seed.
            ("PERSON_TOTP_SEED", "hunter2"),
            ("KEY_ID", "hunter2"),
            ("KEY", "hunter2"),
            ("TOKEN", "hunter2"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    )
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files that configs name, with modes that do not depend on how the repository was checked out.
fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(root().join("tests/data/bad-config/files")).unwrap() {
        let file = file.unwrap();
        let copy = folder.path().join(file.file_name());
        fs::copy(file.path(), &copy).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let open = file.file_name().to_string_lossy().starts_with("open");
            fs::set_permissions(&copy, fs::Permissions::from_mode(if open { 0o644 } else { 0o600 })).unwrap();
        }
    }
    // These end, so they cannot be kept. The one that has ended is always the same but for its key.
    let now = countersign::clock::Clock::system().now().wall;
    let then = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(416_666);
    let soon = now - developer::LIFE + std::time::Duration::from_hours(24 * 10);
    let hosts = ["abc123", "def456", "ghi789"].map(|api| format!("{api}.execute-api.eu-west-1.amazonaws.com"));
    for (name, from) in [("ca", now), ("ended", then), ("future", now + developer::LIFE), ("soon", soon)] {
        let made = developer::create(&hosts, from).unwrap();
        fs::write(folder.path().join(format!("{name}.pem")), made.certificate).unwrap();
        let key = folder.path().join(format!("{name}-key.pem"));
        fs::write(&key, &*made.key).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    folder
}

#[test]
fn an_authority_outside_its_time_is_told_of() {
    let folder = files();
    let reported = |name: &str| {
        let text = format!(
            "[proxy.forward]\nconnect = \"intercept\"\nca_cert = \"{name}.pem\"\nca_key = \"{name}-key.pem\"\n\
             [[route]]\nauth = \"none\"\nupstream = \"https://abc123.execute-api.eu-west-1.amazonaws.com\"\n"
        );
        rendered(load_text("c", &text, folder.path()), folder.path())
    };
    assert_eq!(reported("ca").trim(), "");
    assert!(reported("ended").contains("error: `ca_cert` has expired"));
    assert!(reported("future").contains("error: `ca_cert` does not count before"));
    assert!(reported("soon").contains("warning: `ca_cert` expires soon"));
}

fn load_text(name: &str, text: &str, folder: &Path) -> Result<Compiled, Report> {
    let source = Source { name: name.to_owned(), text: text.to_owned(), folder: folder.to_owned() };
    load(&source, &environment())
}

fn rendered(result: Result<Compiled, Report>, folder: &Path) -> String {
    let text = match result {
        Err(report) => report.to_string(),
        Ok(compiled) => {
            let warnings: Vec<String> = compiled.warnings.iter().map(ToString::to_string).collect();
            warnings.join("\n\n")
        }
    };
    text.replace(&folder.display().to_string(), FOLDER) + "\n"
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a switch for people, not for the program")]
fn every_bad_config_gives_its_report() {
    let bless = std::env::var_os("BLESS").is_some();
    let files = files();
    let mut wrong = Vec::new();
    let mut number = 0;
    let mut configs: Vec<_> =
        fs::read_dir(root().join("tests/data/bad-config")).unwrap().map(|entry| entry.unwrap().path()).collect();
    configs.sort();
    for path in configs.iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        number += 1;
        let report =
            rendered(load_text("countersign.toml", &fs::read_to_string(path).unwrap(), files.path()), files.path());
        assert!(!report.contains("hunter2"), "a secret in the report of {}:\n{report}", path.display());
        assert!(!report.trim().is_empty(), "nothing is wrong with {}", path.display());
        let expected = path.with_extension("expected");
        if bless {
            fs::write(&expected, &report).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != report {
            wrong.push(format!("{}:\n{report}", path.display()));
        }
    }
    assert!(number >= 60, "only {number} bad configs");
    assert!(wrong.is_empty(), "{}\nBLESS=1 cargo test --test config rewrites the reports", wrong.join("\n"));
}

#[test]
fn no_change_of_one_character_lays_a_secret_open() {
    let folder = files();
    let text = "[auth.a]\nkind = \"client-credentials\"\ntoken_url = \"https://a.b/c\"\nclient_id = \"x\"\n\
                client_secret = { value = \"hunter2\" }\n[[route]]\nupstream = \"https://a.b\"\nauth = \"a\"\n\
                request_headers.set = { x-api-key = \"hunter2\" }\n";
    assert!(load_text("c", text, folder.path()).is_ok());
    for at in 0..text.len() {
        for insert in ["", "\"", "=", "{", "[", "]", "\n", ".", "é"] {
            let slip = [&text[..at], insert, &text[at + 1..]].concat();
            let report = rendered(load_text("c", &slip, folder.path()), folder.path());
            assert!(!report.contains("hunter2"), "{slip}\n{report}");
        }
    }
}

/// What the reference says of the keys of one table.
#[derive(Debug, Default)]
struct Described {
    live: BTreeMap<String, String>,
    defaults: BTreeMap<String, String>,
    examples: Vec<(String, String)>,
}

fn example() -> String {
    fs::read_to_string(root().join("config.example.toml")).unwrap()
}

/// The lines of the reference by table and, for `[auth.*]`, kind.
fn described() -> Vec<(String, Described)> {
    let mut tables: Vec<(String, Described)> = Vec::new();
    for line in example().lines() {
        if line.starts_with('[') {
            tables.push((line.to_owned(), Described::default()));
        }
        let Some((_, table)) = tables.last_mut() else { continue };
        let is_key = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let pair = |line: &str| {
            let (name, value) = line.split_once(" = ")?;
            is_key(name).then(|| (name.to_owned(), value.to_owned()))
        };
        if let Some(example) = line.strip_prefix("# ").and_then(pair) {
            table.examples.push(example);
        } else if let Some((name, value)) = line.strip_prefix('#').and_then(pair) {
            table.defaults.insert(name, value);
        } else if let Some((name, value)) = pair(line) {
            table.live.insert(name, value);
        }
    }
    tables
}

fn value(text: &str) -> toml::Value {
    let table: toml::Table = format!("x = {text}").parse().unwrap();
    table["x"].clone()
}

/// All keys inside a value that is written inline.
fn names_inside(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::Table(table) => {
            table.iter().flat_map(|(name, value)| [vec![name.clone()], names_inside(value)].concat()).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn the_reference_has_every_key_with_the_codes_default() {
    let tables = described();
    for Section { header, kind, keys } in SECTIONS {
        let table = tables
            .iter()
            .find(|(name, table)| match kind {
                None => name == header,
                Some(kind) => name.starts_with("[auth.") && table.live["kind"] == format!("\"{kind}\""),
            })
            // The [upstream] keys of a route are described once.
            .map_or_else(|| panic!("{header} is not in config.example.toml"), |(_, table)| table);
        if *header == "[[route]]" && keys.iter().any(|key| key.name == "connect_timeout") {
            continue;
        }
        for key in *keys {
            check_key(header, key, table, &tables);
        }
    }
}

fn check_key(header: &str, key: &Key, table: &Described, tables: &[(String, Described)]) {
    let name = key.name;
    assert!(key.doc.trim().ends_with('.'), "{header} {name} has no description that is a sentence");
    // The first route shows a path of its own; the second has the default.
    let mut same = tables.iter().filter(|(other, _)| other == header);
    let default = table.defaults.get(name).or_else(|| same.find_map(|(_, table)| table.defaults.get(name)));
    let example = table.examples.iter().filter(|(known, _)| known == name).map(|(_, text)| text);
    match (key.default, default) {
        (Some(code), Some(written)) => {
            let (mut code, written) = (value(code), value(written));
            if let (Type::Table(keys), toml::Value::Table(code)) = (key.kind, &mut code) {
                code.extend(keys.iter().filter_map(|key| Some((key.name.to_owned(), value(key.default?)))));
            }
            assert_eq!(written, code, "{header} {name}: the default in config.example.toml is not the code's");
        }
        (None, None) => {
            let shown = table.live.contains_key(name) || example.clone().next().is_some();
            assert!(shown, "{header} {name} is not in config.example.toml");
            assert_eq!(table.live.contains_key(name), key.required || name == "name", "{header} {name}");
        }
        (Some(_), None) => panic!("config.example.toml does not say the default of {header} {name} as `#{name} = …`"),
        (None, Some(_)) => panic!("{header} {name} has no default, so config.example.toml must show it behind `# `"),
    }
    let (Type::Table(inner) | Type::Tables(inner) | Type::ChoiceOrTable(_, inner)) = key.kind else { return };
    let written: Vec<String> =
        example.chain(table.defaults.get(name)).flat_map(|text| names_inside(&value(text))).collect();
    let mut inner: Vec<&Key> = inner.iter().collect();
    while let Some(key) = inner.pop() {
        assert!(written.iter().any(|name| name == key.name), "{header} {name} shows no `{}`", key.name);
        if let Type::Table(more) = key.kind {
            inner.extend(more);
        }
    }
}

/// The text of the reference with the lines of one sort made live.
fn uncommented(mark: &str) -> String {
    let mut seen = Vec::new();
    let mut lines = Vec::new();
    for line in example().lines() {
        if line.starts_with('[') {
            seen.clear();
        }
        let key = line.strip_prefix(mark).filter(|rest| {
            rest.split_once(" = ").is_some_and(|(name, _)| {
                // The second example of a key would double it.
                name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
                    && !seen.contains(&name.to_owned())
            })
        });
        if let Some(rest) = key {
            seen.push(rest.split(" = ").next().unwrap().to_owned());
        }
        lines.push(key.unwrap_or(line).to_owned());
    }
    lines.join("\n")
}

#[test]
fn the_reference_works_as_it_is_and_with_its_defaults_and_examples_written_out() {
    let folder = files();
    // Texts that mean the same still have hashes of their own.
    let load = |text: &str| {
        let compiled =
            load_text("config.example.toml", text, folder.path()).unwrap_or_else(|report| panic!("{report}"));
        Compiled { hash: Hash::default(), ..compiled }
    };
    let plain = load(&example());
    assert!(plain.warnings.is_empty(), "{:?}", plain.warnings);
    assert_eq!((plain.routes.len(), plain.schemes.len()), (3, 3));
    assert!(!format!("{plain:?}").contains("hunter2"), "Debug prints a secret: {plain:?}");
    let written = uncommented("#");
    assert!(written.contains("\nlisten = [") && written.contains("\npath = \"/\""));
    let written = load(&written);
    assert_eq!(format!("{plain:?}"), format!("{written:?}"));
    let all = load(&uncommented("# "));
    assert_eq!(all.routes[0].max_in_flight, Some(256));
}
