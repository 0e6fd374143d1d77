//! `countersign migrate`: the config that does what the flags of aws-sigv4-proxy did.
//!
//! What has no equivalent is said with its reason, on standard error and in the config; nothing is dropped in silence.
//! Flags as in its `cmd/aws-sigv4-proxy/main.go`, with those of older versions.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};

use super::document::{Document, list, quoted, table};
use super::{BAD_CONFIG, BAD_FLAGS, complain, say};
use crate::config::{self, Environment};
use crate::units::format_duration;

#[derive(Args, Debug)]
pub(super) struct MigrateArgs {
    /// The flags of aws-sigv4-proxy.
    #[arg(last = true, required = true, value_name = "FLAG")]
    flags: Vec<OsString>,
}

/// Their flags.
#[derive(Parser, Debug)]
#[command(name = "countersign migrate --", no_binary_name = true, disable_help_flag = true)]
#[expect(clippy::struct_excessive_bools, reason = "they are switches of a program that is not ours")]
struct Theirs {
    #[arg(long, short = 'v')]
    verbose: bool,
    #[arg(long)]
    log_failed_requests: bool,
    #[arg(long)]
    log_signing_process: bool,
    #[arg(long, default_value = ":8080")]
    port: String,
    #[arg(long = "strip", short = 's', visible_alias = "strip-header")]
    strip: Vec<String>,
    #[arg(long = "strip-param")]
    strip_param: Vec<String>,
    #[arg(long, default_value = "")]
    custom_headers: String,
    #[arg(long)]
    duplicate_headers: Vec<String>,
    #[arg(long)]
    role_arn: Option<String>,
    #[arg(long)]
    name: Option<String>,
    #[arg(long)]
    sign_host: Option<String>,
    #[arg(long)]
    host: Option<String>,
    #[arg(long)]
    region: Option<String>,
    #[arg(long)]
    no_verify_ssl: bool,
    #[arg(long = "transport.idle-conn-timeout")]
    idle_conn_timeout: Option<String>,
    #[arg(long, default_value = "https")]
    upstream_url_scheme: String,
    #[arg(long)]
    unsigned_payload: bool,
    #[arg(long)]
    rate_limit: Option<String>,
    #[arg(long)]
    burst_limit: Option<String>,
    #[arg(long, short = 'c')]
    config_set: Vec<String>,
}

pub(super) fn migrate(args: &MigrateArgs, environment: &Environment) -> ExitCode {
    // As it stands in a container's command.
    let is_program = |word: &OsString| word.to_str().is_some_and(|word| word.ends_with("aws-sigv4-proxy"));
    let flags = args.flags.iter().enumerate().filter(|(index, word)| *index > 0 || !is_program(word));
    let theirs = match Theirs::try_parse_from(flags.map(|(_, word)| word)) {
        Ok(theirs) => theirs,
        Err(error) => return complain(&error.to_string().trim_end(), BAD_FLAGS),
    };
    let Some(host) = theirs.host.clone() else {
        let problem = "--host is missing: aws-sigv4-proxy then goes wherever a request's Host says, and countersign goes \
                       nowhere but to its routes; give --host, once for each API";
        return complain(&problem, BAD_FLAGS);
    };
    let (document, notes) = theirs.document(&host);
    for note in &notes {
        let _goes_on = complain(note, 0);
    }
    let said = say(document.text(), ExitCode::SUCCESS);
    match document.load("the config that these flags make", environment) {
        Ok(compiled) => {
            for warning in &compiled.warnings {
                let _goes_on = complain(warning, 0);
            }
            said
        }
        Err(report) => complain(&report, BAD_CONFIG),
    }
}

impl Theirs {
    fn document(&self, host: &str) -> (Document, Vec<String>) {
        let mut notes = self.without_equivalent();
        let listen = listen(&self.port, &mut notes);
        let upstream = self.upstream(host, &mut notes);
        let idle = self.idle(&mut notes);
        let signing = self.signing(host, &mut notes);
        let headers = self.headers(&mut notes);

        let mut document = Document::default();
        document.say("# Written by `countersign migrate` from flags of aws-sigv4-proxy.");
        for note in &notes {
            // What a flag said must not end the comment.
            document.say(&format!("# {}", note.replace(char::is_control, "?")));
        }
        document.say("\n[proxy]");
        document.set("--port", "listen", &list(&listen));
        if self.verbose {
            document.say("\n[log]");
            document.set("--verbose", "level", "\"debug\"");
        }
        if let Some(idle) = idle {
            document.say("\n[upstream]");
            document.set("--transport.idle-conn-timeout", "pool_idle_timeout", &quoted(&format_duration(idle)));
        }
        document.say("\n[auth.iam]");
        document.set("", "kind", "\"sigv4\"");
        for (flag, key, value) in &signing {
            document.set(flag, key, value);
        }
        document.say("\n[[route]]");
        document.set("", "name", "\"api\"");
        for (flag, key, value) in &upstream {
            document.set(flag, key, value);
        }
        document.set("", "auth", "\"iam\"");
        if !headers.is_empty() {
            document.say("[route.request_headers]");
        }
        for (flag, key, value) in &headers {
            document.set(flag, key, value);
        }
        (document, notes)
    }

    fn without_equivalent(&self) -> Vec<String> {
        let flags = [
            (
                self.no_verify_ssl,
                "--no-verify-ssl has no equivalent: credentials are never sent to a server that anybody may be; have \
                 ca_file in [upstream] name the certificate authority of that server, and server_name in the route its \
                 name, if that is not the upstream's",
            ),
            (
                self.log_failed_requests,
                "--log-failed-requests has no equivalent: bodies are never logged; each request leaves a line with \
                 its status, and the caller gets the answer",
            ),
            (
                self.log_signing_process,
                "--log-signing-process has no equivalent: `countersign explain GET URL` shows what is signed",
            ),
            (
                !self.duplicate_headers.is_empty(),
                "--duplicate-headers has no equivalent: fields that callers send for authorisation are dropped, and \
                 nothing copies them to X-Original-*; have the caller send both",
            ),
            (
                !self.strip_param.is_empty(),
                "--strip-param has no equivalent: the query goes out as it came; have the caller leave them out",
            ),
            (
                self.rate_limit.is_some() || self.burst_limit.is_some(),
                "--rate-limit and --burst-limit have no equivalent: nothing counts requests per second; max_in_flight in \
                 [proxy] or the route limits those at the same time",
            ),
            (
                !self.config_set.is_empty(),
                "--config-set has no equivalent here: run `countersign migrate` for each of its hosts, and put the \
                 [auth] and [[route]] tables together, with `host` in each route",
            ),
            (
                self.name.as_deref() == Some("s3"),
                "--name s3 has no equivalent: S3 wants its paths signed in another way than API Gateway; only plain ones \
                 (letters, digits, - . _ ~ and /) will pass",
            ),
        ];
        flags.into_iter().filter(|(given, _)| *given).map(|(_, note)| note.to_owned()).collect()
    }

    /// Where to, and under which name.
    fn upstream(&self, host: &str, notes: &mut Vec<String>) -> Vec<(&'static str, &'static str, String)> {
        let (name, port) = split_port(host);
        let loopback = name == "localhost" || name == "[::1]" || name.starts_with("127.");
        let plain = self.upstream_url_scheme == "http";
        if plain && !loopback {
            notes.push(
                "--upstream-url-scheme http has no equivalent: credentials are sent in plain text to loopback alone; \
                 https:// is written"
                    .to_owned(),
            );
        }
        let scheme = if plain && loopback { "http" } else { "https" };
        match self.sign_host.as_deref().filter(|sign| *sign != host) {
            None => vec![("--host", "upstream", quoted(&format!("{scheme}://{host}")))],
            Some(_) if scheme == "http" => {
                notes.push(
                    "--sign-host has no equivalent with a plain http upstream, which is signed for by its own name"
                        .to_owned(),
                );
                vec![("--host", "upstream", quoted(&format!("{scheme}://{host}")))]
            }
            Some(sign) => {
                let mut keys = vec![
                    ("--sign-host", "upstream", quoted(&format!("{scheme}://{sign}"))),
                    ("--host", "connect_to", quoted(&format!("{name}:{}", port.unwrap_or("443")))),
                ];
                // Whose certificate was not looked at may well be at the other end of a tunnel, and has the signed name.
                if !self.no_verify_ssl {
                    keys.push(("--host", "server_name", quoted(name)));
                }
                keys
            }
        }
    }

    fn signing(&self, host: &str, notes: &mut Vec<String>) -> Vec<(&'static str, &'static str, String)> {
        let signed = split_port(self.sign_host.as_deref().unwrap_or(host)).0;
        let told = [signed, split_port(host).0].into_iter().find_map(told_by);
        let mut keys = Vec::new();
        match (&self.region, told) {
            (Some(region), _) => keys.push(("--region", "region", quoted(region))),
            // Read from the upstream's name.
            (None, Some((_, "execute-api"))) => {}
            (None, Some((region, _))) => keys.push(("", "region", quoted(region))),
            // What it does itself.
            (None, None) => keys.push(("", "region", "\"${AWS_REGION:-us-east-1}\"".to_owned())),
        }
        match (&self.name, told) {
            (Some(name), _) => keys.push(("--name", "service", quoted(name))),
            (None, Some((_, "execute-api"))) => {}
            (None, Some((_, service))) => {
                notes.push(format!("--name is not given: the service \"{service}\" is read from the host's name"));
                keys.push(("", "service", quoted(service)));
            }
            (None, None) => {
                notes.push(
                    "--name is not given, and the host's name does not tell the service: execute-api is assumed"
                        .to_owned(),
                );
            }
        }
        if let Some(arn) = &self.role_arn {
            keys.push(("--role-arn", "assume_role", table(&[("arn", quoted(arn))])));
        }
        if self.unsigned_payload {
            keys.push(("--unsigned-payload", "payload", "\"unsigned\"".to_owned()));
        }
        keys
    }

    fn headers(&self, notes: &mut Vec<String>) -> Vec<(&'static str, &'static str, String)> {
        let mut set: Vec<(&str, String)> = Vec::new();
        for pair in self.custom_headers.split(',').filter(|pair| !pair.trim().is_empty()) {
            let Some((name, value)) = pair.split_once('=').map(|(name, value)| (name.trim(), value.trim())) else {
                notes.push(format!("--custom-headers: {pair:?} has no \"=\" and is left out"));
                continue;
            };
            if is_ours(name) {
                notes.push(format!("--custom-headers {name} has no equivalent: countersign writes that field itself"));
                continue;
            }
            // One field of two lines means the same as one line with both (RFC 9110 5.3).
            match set.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
                Some((_, values)) => *values = format!("{values}, {value}"),
                None => set.push((name, value.to_owned())),
            }
        }
        let mut keys = Vec::new();
        if !set.is_empty() {
            notes.push("--custom-headers gave way to what callers send; `set` replaces that".to_owned());
            let names: Vec<String> = set.iter().map(|(name, _)| quoted(name)).collect();
            let pairs = names.iter().zip(&set).map(|(name, (_, value))| (name.as_str(), quoted(value)));
            keys.push(("--custom-headers", "set", table(&pairs.collect::<Vec<_>>())));
        }
        let mut remove = Vec::new();
        for name in &self.strip {
            if name.ends_with('*') {
                notes.push(format!("--strip-header {name} has no equivalent: name each field in `remove`"));
                continue;
            }
            // What is set replaces what came anyway.
            let is_set = set.iter().any(|(set, _)| set.eq_ignore_ascii_case(name));
            if !is_set && !is_ours(name) {
                remove.push(name);
            }
        }
        if !remove.is_empty() {
            keys.push(("--strip", "remove", list(remove)));
        }
        keys
    }

    fn idle(&self, notes: &mut Vec<String>) -> Option<Duration> {
        let text = self.idle_conn_timeout.as_ref()?;
        let duration = go_duration(text).filter(|duration| !duration.is_zero());
        if duration.is_none() {
            notes.push(format!("--transport.idle-conn-timeout {text} has no equivalent: pool_idle_timeout stays 20s"));
        }
        duration
    }
}

/// Whether countersign writes the field whoever sent one, so that there is nothing to set or remove.
fn is_ours(name: &str) -> bool {
    name.parse().is_ok_and(|name| config::is_written_by_signing(&name))
}

/// As Go's `net.Listen` reads it: no host is every address.
fn listen(port: &str, notes: &mut Vec<String>) -> Vec<String> {
    let (host, port) = port.rsplit_once(':').unwrap_or(("", port));
    match host {
        "localhost" => {}
        "" | "0.0.0.0" | "[::]" => notes.push(
            "--port listened on every address; here it is loopback alone: for others set `listen` and `expose = true`, \
             and a `caller_token`, in [proxy]"
                .to_owned(),
        ),
        host => return vec![format!("{host}:{port}")],
    }
    vec![format!("127.0.0.1:{port}"), format!("[::1]:{port}")]
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => (name, Some(port)),
        _ => (host, None),
    }
}

/// Region and service, by an AWS host's name: `SERVICE.REGION.amazonaws.com`, or `REGION.es.amazonaws.com` as a few have it.
fn told_by(host: &str) -> Option<(&str, &str)> {
    let labels: Vec<&str> = host.split('.').collect();
    let end = labels.iter().rposition(|label| *label == "amazonaws")?;
    let at = labels.iter().take(end).position(|label| is_region(label))?;
    let region = labels.get(at).copied()?;
    let before = at.checked_sub(1).and_then(|index| labels.get(index)).copied();
    let behind = labels.get(at + 1).copied().filter(|_| at + 1 < end);
    let service = match behind {
        Some("vpce") | None => before?,
        Some(service) => service,
    };
    // Signed for by another name than the host has.
    let service = if service == "aps-workspaces" { "aps" } else { service };
    Some((region, service))
}

/// `eu-west-1`, `us-gov-east-1`.
fn is_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    match parts.as_slice() {
        [area, middle @ .., number] => {
            area.len() == 2
                && is_word(area)
                && !middle.is_empty()
                && middle.iter().all(is_word)
                && number.len() == 1
                && number.bytes().all(|byte| byte.is_ascii_digit())
        }
        _ => false,
    }
}

/// Go's `time.ParseDuration`, without signs: `1m30s`, `1.5h`, `0`.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut sum) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let (number, behind) = rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?)?;
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(end)?;
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = behind;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_region_and_service() {
        for (host, told) in [
            ("abc.execute-api.eu-west-1.amazonaws.com", Some(("eu-west-1", "execute-api"))),
            ("vpce-0a1.execute-api.us-gov-west-1.vpce.amazonaws.com", Some(("us-gov-west-1", "execute-api"))),
            ("search-x.eu-west-1.es.amazonaws.com", Some(("eu-west-1", "es"))),
            ("aps-workspaces.us-east-1.amazonaws.com", Some(("us-east-1", "aps"))),
            ("sqs.cn-north-1.amazonaws.com.cn", Some(("cn-north-1", "sqs"))),
            ("api.example.com", None),
            ("eu-west-1.example.com", None),
        ] {
            assert_eq!(told_by(host), told, "{host}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, milliseconds) in
            [("40s", Some(40_000)), ("1m30s", Some(90_000)), ("1.5s", Some(1500)), ("250ms", Some(250)), ("0", Some(0))]
        {
            assert_eq!(go_duration(text).map(|duration| duration.as_millis()), milliseconds, "{text}");
        }
        for text in ["", "40", "s", "4x", "-1s", "5000000000000000h5000000000000000h"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
