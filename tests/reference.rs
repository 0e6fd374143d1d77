//! `docs/configuration.md` is the config's own keys, written out; so are the man page and the completions of the command
//! line. `BLESS=1 cargo test --test reference` rewrites them.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use countersign::config::raw::{Key, SECTIONS, Section, Type};

const CONFIGURATION: &str = "docs/configuration.md";
const HEAD: &str = "\
# Configuration

The config is one TOML file. `countersign run` takes it from `--config FILE`, from the file that `COUNTERSIGN_CONFIG` names,
from the text in `COUNTERSIGN_CONFIG_TOML`, from `./countersign.toml` or from `/etc/countersign/config.toml`, in this order.
`countersign check` prints every problem of it with its line; `countersign init` writes a first one;
[config.example.toml](../config.example.toml) has every key in one commented file.

A file that changes is taken up while requests pass, by itself or at SIGHUP. A file with an error changes nothing: the config
before it stays, and the log, `/readyz`, the status page and `countersign_config_last_reload_successful` say so. Keys marked
*at start* wait for the next start.

## Forms of values

| value | is written as |
| --- | --- |
| duration | a string with a unit: `\"250ms\"`, `\"5s\"`, `\"10m\"`, `\"1h\"`; never zero, a day at most |
| size | a string with a unit: `\"64KiB\"`, `\"10MiB\"`, `\"1GiB\"`; never zero |
| address | IP address and port: `\"127.0.0.1:8080\"`, `\"[::1]:8080\"` |
| secret | a table that says where it is: `{ env = \"NAME\" }`, `{ file = \"path\" }`, `{ secretsmanager = \"name or ARN\", key = \"JSON member\" }`, `{ ssm = \"/name\" }`, or `{ value = \"literal\" }`, which is warned about |
| file name | relative to the folder of the config |

`${NAME}` and `${NAME:-default}` in any string come from the environment; `$${` stands for the characters themselves. Secrets in
files and stores are read anew whenever they are used, so a rotated one takes effect without a restart. An unknown key is an
error.

";
const ENVIRONMENT: &str = "\
## Environment variables

| variable | is |
| --- | --- |
| `COUNTERSIGN_CONFIG` | the config's file name |
| `COUNTERSIGN_CONFIG_TOML` | the config itself, for an ECS task that has no file to mount |
| `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, and in lower case | the way out, for `proxy = \"env\"` |
| `AWS_*` | credentials, region and profile, as in every SDK of AWS |
| `SSL_CERT_FILE`, `SSL_CERT_DIR` | the system's roots, where they are elsewhere |
| `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_ENDPOINT` | where spans go, if `endpoint` of `[traces]` is left out; the second gets `/v1/traces` behind it |
| `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, `OTEL_EXPORTER_OTLP_HEADERS` | headers for the collector, as `name=value,name=value` |
| `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL`, `OTEL_EXPORTER_OTLP_PROTOCOL` | `http/protobuf` is what is spoken; with `grpc` an endpoint of these variables is not used |
| `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | what the spans say of this program |
| `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG` | which requests leave a span, if `sample_ratio` is left out: `always_on`, `always_off`, `traceidratio`, and the same behind `parentbased_` |
| `OTEL_SDK_DISABLED=true`, `OTEL_TRACES_EXPORTER=none` | no traces, whatever else is said |

Other variables of OpenTelemetry are not read.
";

/// What is read at a start alone: `app::parts::AtStart`.
const AT_START: [(&str, &str); 7] = [
    ("[proxy]", "socket_mode"),
    ("[proxy]", "socket_users"),
    ("[proxy]", "expose"),
    ("[proxy]", "workers"),
    ("[proxy]", "max_connections"),
    ("[proxy]", "buffer_budget"),
    ("[proxy]", "buffer_wait"),
];
const TABLES_AT_START: [&str; 3] = ["[admin]", "[log]", "[traces]"];

/// What a table is for.
fn about(section: &Section) -> &'static str {
    match (section.header, section.kind) {
        ("[proxy]", _) => "Where callers reach countersign, who may call, and how much at a time.",
        ("[admin]", _) => "The port with the status page, the probes and the metrics.",
        ("[log]", _) => "Log lines on standard error. The level can also be set on the status page while it runs.",
        ("[traces]", _) => {
            "A span for each request, sent to an OpenTelemetry collector in the background. Off without an endpoint; then \
             `traceparent` and `tracestate` pass as any field. With one, countersign's span stands between the caller's and \
             the API's, and a trace is begun where the caller has none. Spans say what the access log says: no query, no \
             field's value, no body. A collector that is down costs spans alone. [More](traces.md)."
        }
        ("[upstream]", _) => {
            "How upstreams are reached, for all routes. Each of these keys may stand in a `[[route]]` as well, and holds for \
             that one then."
        }
        ("[auth.NAME]", Some("client-credentials")) => {
            "An OAuth2 client with a secret of its own: an app client of a Cognito user pool, or of any other issuer. Routes \
             use it by its NAME."
        }
        ("[auth.NAME]", Some("cognito-user")) => {
            "A user of a Cognito user pool: countersign logs in, and keeps the login alive with its refresh token."
        }
        ("[auth.NAME]", Some("sigv4")) => "An AWS Signature Version 4, for APIs with IAM authorisation.",
        ("[token_cache]", _) => {
            "A Redis or Valkey through which a fleet shares the tokens of its client-credentials tables, encrypted. Off without \
             `url`."
        }
        ("[[route]]", _) => {
            "Which requests go where. The longest `path` wins; a route with a `host` comes before those without. The keys of \
             `[upstream]` may stand here, too."
        }
        (other, kind) => panic!("what is {other} {kind:?} for? Write it here"),
    }
}

/// One example a key, by header (and kind), as config.example.toml has it.
fn examples() -> BTreeMap<(String, Option<String>), BTreeMap<String, String>> {
    let mut all: BTreeMap<_, BTreeMap<String, String>> = BTreeMap::new();
    let text = fs::read_to_string(root().join("config.example.toml")).unwrap();
    let (mut header, mut kind) = (String::new(), None);
    for line in text.lines() {
        if line.starts_with('[') {
            header = if line.starts_with("[auth.") { "[auth.NAME]".to_owned() } else { line.to_owned() };
            kind = None;
        }
        if let Some(value) = line.strip_prefix("kind = ") {
            kind = Some(value.trim_matches('"').to_owned());
        }
        let written = line.strip_prefix("# ").or_else(|| line.strip_prefix('#')).unwrap_or(line);
        let Some((name, value)) = written.split_once(" = ") else { continue };
        let is_key = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if is_key {
            let keys = all.entry((header.clone(), kind.clone())).or_default();
            // A default is the poorer example; of several the first one is the plain one.
            let is_default = line.starts_with('#') && !line.starts_with("# ");
            let known = keys.get(name).cloned();
            if known.is_none() || keys.remove(&format!("{name} is a default")).is_some() {
                keys.insert(name.to_owned(), value.to_owned());
                if is_default {
                    keys.insert(format!("{name} is a default"), String::new());
                }
            }
        }
    }
    all
}

/// For lists and tables that are empty by default, which would show nothing.
const EXAMPLES: [(&str, &str); 6] = [
    ("allowed_hosts", r#"["orders.internal"]"#),
    ("allowed_origins", r#"["http://localhost:3000"]"#),
    ("scopes", r#"["orders/read"]"#),
    ("params", r#"{ audience = "https://orders.example" }"#),
    ("resource", r#"{ "deployment.environment.name" = "prod" }"#),
    (
        "request_headers",
        r#"{ set = { x-team = "blue", x-api-key = { env = "ORDERS_API_KEY" } }, remove = ["cookie"] }"#,
    ),
];

fn kind_of(kind: Type) -> String {
    let quoted = |names: &[&str]| names.iter().map(|name| format!("`\"{name}\"`")).collect::<Vec<_>>().join(", ");
    match kind {
        Type::Text => "string".to_owned(),
        Type::Bool => "`true` or `false`".to_owned(),
        Type::Count => "whole number, 1 or more".to_owned(),
        Type::Id => "whole number".to_owned(),
        Type::Share => "number from 0 to 1".to_owned(),
        Type::Duration => "duration".to_owned(),
        Type::Size => "size".to_owned(),
        Type::Address => "address".to_owned(),
        Type::Choice(names) => format!("one of {}", quoted(names)),
        Type::List(Type::Text) => "list of strings".to_owned(),
        Type::List(Type::Address) => "list of addresses".to_owned(),
        Type::List(Type::Id) => "list of whole numbers".to_owned(),
        Type::List(of) => format!("list, each a {}", kind_of(*of)),
        Type::Secret => "secret".to_owned(),
        Type::TextOrSecret => "string or secret".to_owned(),
        Type::Map(Type::TextOrSecret) => "table of your own names, each with a string or a secret".to_owned(),
        Type::Map(_) => "table of your own names, each with a string".to_owned(),
        Type::Table(_) => "table".to_owned(),
        Type::Tables(_) => "table, or a list of such tables".to_owned(),
        Type::ChoiceOrTable(..) => "string or table".to_owned(),
    }
}

fn inner(kind: Type) -> Option<&'static [Key]> {
    if let Type::Table(keys) | Type::Tables(keys) | Type::ChoiceOrTable(_, keys) = kind { Some(keys) } else { None }
}

fn configuration() -> String {
    let mut page = HEAD.to_owned();
    let examples = examples();
    page.push_str("## Tables\n\n");
    let sections: Vec<&Section> =
        // The [upstream] keys of a route are described once.
        SECTIONS.iter().filter(|section| section.header != "[[route]]" || is_route(section)).collect();
    for section in &sections {
        let title = title(section);
        let _infallible = writeln!(page, "- [{}](#{})", title.replace('[', "\\[").replace(']', "\\]"), anchor(&title));
    }
    page.push_str("- [Environment variables](#environment-variables)\n\n");
    for section in &sections {
        let Section { header, kind, keys } = section;
        let none = BTreeMap::new();
        let examples = examples.get(&((*header).to_owned(), kind.map(ToOwned::to_owned))).unwrap_or(&none);
        let _infallible = writeln!(page, "## {}\n\n{}\n", title(section), about(section));
        for key in *keys {
            describe(&mut page, section, key, examples);
        }
    }
    page.push_str(ENVIRONMENT);
    page
}

fn is_route(section: &Section) -> bool {
    section.keys.iter().any(|key| key.name == "auth")
}

fn title(section: &Section) -> String {
    match section.kind {
        Some(kind) => format!("{}, kind = \"{kind}\"", section.header),
        None => section.header.to_owned(),
    }
}

fn describe(page: &mut String, section: &Section, key: &Key, examples: &BTreeMap<String, String>) {
    let mut facts = vec![kind_of(key.kind)];
    facts.push(match (key.required, key.default) {
        (true, _) => "**required**".to_owned(),
        (false, Some("{}" | "[]") | None) => "optional".to_owned(),
        (false, Some(default)) => format!("default `{default}`"),
    });
    if section.header == "[upstream]" {
        facts.push("also per route".to_owned());
    }
    let is_at_start = TABLES_AT_START.contains(&section.header) || AT_START.contains(&(section.header, key.name));
    if is_at_start {
        facts.push("*at start*".to_owned());
    }
    let _infallible = writeln!(page, "### `{}`\n\n{}\n\n{}\n", key.name, facts.join(" · "), prose(key.doc));
    if let Some(keys) = inner(key.kind) {
        page.push_str("| key | value | is |\n| --- | --- | --- |\n");
        rows(page, "", keys);
        page.push('\n');
    }
    let own = EXAMPLES.iter().find(|(name, _)| *name == key.name).map(|(_, example)| (*example).to_owned());
    // That config.example.toml shows every key is another test's business.
    let example = own.or_else(|| examples.get(key.name).cloned()).or_else(|| key.default.map(ToOwned::to_owned));
    if let Some(example) = example {
        let _infallible = writeln!(page, "```toml\n{} = {example}\n```\n", key.name);
    }
}

/// The keys of a table inside a table, and of those inside that.
fn rows(page: &mut String, before: &str, keys: &[Key]) {
    for key in keys {
        let needed = if key.required { ", **required**" } else { "" };
        let default = key.default.filter(|default| !matches!(*default, "{}" | "[]"));
        let default = default.map(|default| format!(", default `{default}`")).unwrap_or_default();
        let cell = |text: &str| text.replace('|', "\\|");
        let name = format!("{before}{}", key.name);
        let _infallible = writeln!(
            page,
            "| `{name}` | {}{needed}{} | {} |",
            kind_of(key.kind),
            cell(&default),
            cell(&prose(key.doc))
        );
        if let Some(inner) = inner(key.kind) {
            rows(page, &format!("{name}."), inner);
        }
    }
}

/// A description as one paragraph.
fn prose(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ").replace('<', "&lt;")
}

/// As GitHub and others make them.
fn anchor(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares `text` with the file, or writes it there.
#[expect(clippy::disallowed_methods, reason = "the program reads no environment here; the test's own switch is one")]
fn compare(file: &str, text: &str) {
    let path = root().join(file);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).unwrap();
        fs::write(&path, text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "{file} is old: run `BLESS=1 cargo test --test reference`");
}

#[test]
fn the_configuration_page_is_the_configs_own_keys() {
    let page = configuration();
    for Section { keys, .. } in SECTIONS {
        for key in *keys {
            assert!(page.contains(&format!("### `{}`\n", key.name)), "{}", key.name);
        }
    }
    compare(CONFIGURATION, &page);
}

#[test]
fn the_man_pages_are_the_commands_own_help() {
    let folder = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(countersign::cli::command(), folder.path()).unwrap();
    let pages = fs::read_dir(folder.path()).unwrap().map(|page| page.unwrap().path());
    let mut pages: Vec<(String, String)> = pages
        .map(|page| (page.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&page).unwrap()))
        .collect();
    pages.sort();
    assert!(pages.len() > 10, "{pages:?}");
    for (name, text) in &pages {
        compare(&format!("docs/man/{name}"), text);
    }
    let kept = fs::read_dir(root().join("docs/man")).unwrap().count();
    assert_eq!(kept, pages.len(), "docs/man has a page of a command that is gone");
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn what_comments_refer_to_is_there() {
    let mut seen = 0;
    for page in ["docs/rules.md", "docs/aws.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for path in files(&root().join("src")) {
            let source = fs::read_to_string(&path).unwrap();
            for after in source.split(page).skip(1) {
                let number = after.trim_start().split(|c: char| !c.is_ascii_alphanumeric() && c != '.').next().unwrap();
                let number = number.trim_end_matches('.');
                let heads = [
                    format!("**{number} "),
                    format!("**{number},"),
                    format!("**{number}.**"),
                    format!("**{number}**"),
                    format!("## {number}. "),
                ];
                assert!(heads.iter().any(|head| text.contains(head)), "{}: {page} has no {number}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen}");
}
