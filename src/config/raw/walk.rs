//! From text to [`RawConfig`]: the tables of the file, and the keys that depend on one another.

use toml::de::DeTable;

use super::{
    KINDS, ROOT, RawAuth, RawClientCredentials, RawCognitoUser, RawConfig, RawRoute, RawRouteEntry, RawSigV4,
    RawUpstream,
};
use crate::config::diagnostic::{Problems, Span};
use crate::config::raw::Key;
use crate::config::read::{At, FromToml, Map, Reader, Table, Text, Value};
use crate::config::syntax::{self, Recovered};
use crate::config::{Environment, Source};

/// Reads `source`. What cannot be read is noted and stands there with its default.
///
/// `None` when lines are missing because they are not TOML: what is left may be right, but is not what was meant.
pub(in crate::config) fn read(
    source: &Source,
    environment: &Environment,
    problems: &mut Problems,
) -> Option<RawConfig> {
    let Recovered { text, has_gaps } = syntax::recover(&source.text, problems);
    let (document, _) = DeTable::parse_recoverable(&text);
    let config = read_root(&mut Reader::new(environment, problems), document.get_ref());
    if has_gaps {
        problems.retain(|problem| !problem.absence);
    }
    (!has_gaps).then_some(config)
}

fn read_root(reader: &mut Reader<'_>, entries: &DeTable<'_>) -> RawConfig {
    for key in entries.keys() {
        let name: &str = key.get_ref();
        if !ROOT.contains(&name) {
            reader.unknown_key("", key.span().into(), name, ROOT.into_iter());
        }
    }
    let root = Table { name: "", span: Span::NOWHERE, entries };
    let upstream = read_upstream(reader, &root);
    RawConfig {
        proxy: reader.or_default(&root, "proxy", "{}", None).value,
        admin: reader.or_default(&root, "admin", "{}", None).value,
        log: reader.or_default(&root, "log", "{}", None).value,
        traces: reader.or_default(&root, "traces", "{}", None).value,
        auth: read_auths(reader, &root),
        token_cache: reader.or_default(&root, "token_cache", "{}", None).value,
        routes: read_routes(reader, &root, &upstream),
        upstream,
    }
}

fn read_upstream(reader: &mut Reader<'_>, root: &Table<'_, '_>) -> RawUpstream {
    if let Some(value) = root.entries.get("upstream")
        && let Some(entries) = value.get_ref().as_table()
    {
        refuse_half_identity(reader, &Table { name: "upstream", span: reader.span(value), entries });
    }
    reader.or_default(root, "upstream", "{}", None).value
}

fn read_auths(reader: &mut Reader<'_>, root: &Table<'_, '_>) -> Map<RawAuth> {
    let Some(value) = root.entries.get("auth") else { return Vec::new() };
    let Some(table) = reader.table("auth", value) else { return Vec::new() };
    let mut auths = Vec::new();
    for (name, value) in table.entries {
        let key = format!("auth.{}", name.get_ref());
        let auth = match reader.table(&key, value) {
            Some(table) => read_auth(reader, &table),
            None => RawAuth::Unknown,
        };
        let name = At { value: name.get_ref().to_string(), span: reader.span(name) };
        auths.push((name, At { value: auth, span: reader.span(value) }));
    }
    auths.sort_by_key(|(name, _)| name.span);
    auths
}

fn read_auth(reader: &mut Reader<'_>, table: &Table<'_, '_>) -> RawAuth {
    let names: Vec<&'static str> = KINDS.iter().map(|(name, _)| *name).collect();
    let kind = match table.entries.get("kind") {
        None => {
            let list = names.iter().map(|name| format!("`kind = \"{name}\"`")).collect::<Vec<_>>().join(" or ");
            reader.missing(table, "kind").help(format!("write {list}"));
            None
        }
        Some(value) => Text::read(reader, "kind", value).inspect(|kind| {
            if !names.contains(&&**kind) {
                reader.unknown_value("kind", value, kind, &names);
            }
        }),
    };
    let own = kind.as_deref().and_then(|kind| KINDS.iter().find(|(name, _)| *name == kind));
    for key in table.entries.keys() {
        let name: &str = key.get_ref();
        let has = |keys: &[Key]| name == "kind" || keys.iter().any(|key| key.name == name);
        match own {
            Some((_, keys)) if has(keys) => {}
            Some((kind, keys)) => {
                let others = KINDS.iter().filter(|(_, keys)| has(keys)).map(|(other, _)| format!("\"{other}\""));
                let others = others.collect::<Vec<_>>().join(" and ");
                if others.is_empty() {
                    reader.unknown_key(table.name, key.span().into(), name, keys.iter().map(|key| key.name));
                } else {
                    let message = format!("`{name}` belongs to kind = {others}, and this is kind = \"{kind}\"");
                    reader.problems.error(key.span().into(), message);
                }
            }
            None if KINDS.iter().any(|(_, keys)| has(keys)) => {}
            None => {
                let keys = KINDS.iter().flat_map(|(_, keys)| *keys);
                reader.unknown_key(table.name, key.span().into(), name, keys.map(|key| key.name));
            }
        }
    }
    match own {
        Some(("cognito-user", _)) => RawAuth::CognitoUser(Box::new(RawCognitoUser::take(reader, table, None))),
        Some(("sigv4", _)) => RawAuth::SigV4(Box::new(RawSigV4::take(reader, table, None))),
        Some(_) => RawAuth::ClientCredentials(Box::new(RawClientCredentials::take(reader, table, None))),
        None => RawAuth::Unknown,
    }
}

fn read_routes(reader: &mut Reader<'_>, root: &Table<'_, '_>, upstream: &RawUpstream) -> Vec<At<RawRouteEntry>> {
    let mut items: &[Value<'_>] = &[];
    if let Some(value) = root.entries.get("route") {
        let Some(tables) = value.get_ref().as_array() else {
            let problem = reader.wrong_type("route", value, "an array of tables");
            problem.help("every route begins with [[route]], in two pairs of brackets");
            return Vec::new();
        };
        items = tables;
    }
    if items.is_empty() {
        let message = "there is no [[route]], so every request would be refused";
        let problem = reader.problems.error(Span::NOWHERE, message).absence();
        problem.help("a route needs `upstream` and `auth`; config.example.toml has one");
    }
    let mut routes = Vec::new();
    for item in items {
        let Some(table) = reader.table("route", item) else { continue };
        reader.refuse_unknown(&table, &[RawRoute::KEYS, RawUpstream::KEYS]);
        refuse_half_identity(reader, &table);
        let span = table.span;
        let route = RawRoute::take(reader, &table, None);
        let upstream = RawUpstream::take(reader, &table, Some(upstream));
        routes.push(At { value: RawRouteEntry { route, upstream }, span });
    }
    routes
}

/// A certificate without its key, or the other way round. Looks at one table: half of a pair is not inherited.
fn refuse_half_identity(reader: &mut Reader<'_>, table: &Table<'_, '_>) {
    for (given, wanted) in [("client_cert", "client_key"), ("client_key", "client_cert")] {
        if let Some((key, _)) = table.entries.get_key_value(given)
            && !table.entries.contains_key(wanted)
        {
            let problem = reader.problems.error(key.span().into(), format!("`{given}` needs `{wanted}` beside it"));
            problem.help("mutual TLS takes a certificate and its private key, given in the same table").absence();
        }
    }
}
