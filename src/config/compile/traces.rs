//! Where spans go: `[traces]`, and what the environment says of it in OpenTelemetry's own variables.
//!
//! The file wins. What is wrong with a variable is a warning, as OpenTelemetry wants it: the app's telemetry must not keep
//! the app from starting. Variables that are not named here are not read.

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::Context;
use super::field::field_name;
use super::secret;
use super::url::{Query, Url};
use crate::auth::spec::SecretSource;
use crate::config::diagnostic::Span;
use crate::config::raw::{RawFieldValue, RawTraces};
use crate::config::read::{At, Text};
use crate::secret::{LocalSecret, Secret};
use crate::telemetry::traces::Settings;
use crate::telemetry::traces::sampling::{Parent, Sampling, Share};

/// Where collectors take spans, by the OTLP specification.
const PATH: &str = "/v1/traces";

type Headers = Vec<(HeaderName, LocalSecret)>;

/// Where spans go, if anywhere.
pub(super) fn compile(raw: &RawTraces, context: &mut Context<'_>) -> Option<Settings> {
    let headers = headers(raw, context);
    let endpoint = match &raw.endpoint {
        Some(text) => written(text, context),
        None => from_environment(context),
    };
    let is_meant = raw.service_name.is_some() || raw.sample_ratio.is_some() || !raw.resource.value.is_empty();
    if endpoint.is_none() && raw.endpoint.is_none() && (is_meant || !headers.is_empty()) {
        let problem = context.problems.warning(Span::NOWHERE, "[traces] has no `endpoint`, so nothing is traced");
        problem.help("write the collector's, as in endpoint = \"http://localhost:4318/v1/traces\"");
    }
    let endpoint = endpoint?;
    if let Some(variable) = switched_off(context) {
        if raw.endpoint.is_some() {
            let message = format!("{variable} in the environment switches traces off");
            context.problems.warning(Span::NOWHERE, message).help("unset it, or take the `endpoint` of [traces] out");
        }
        return None;
    }
    let from_environment = headers_of(context);
    let known = |name: &HeaderName| headers.iter().any(|(given, _)| given == name);
    let others: Headers = from_environment.into_iter().filter(|(name, _)| !known(name)).collect();
    let headers: Headers = headers.into_iter().chain(others).collect();
    if endpoint.is_open() && !headers.is_empty() {
        let span = raw.endpoint.as_ref().map_or(Span::NOWHERE, |text| text.span);
        let problem = context.problems.error(span, "headers for a collector would go out in plain text");
        problem.help("write https://, or take the headers out; http:// is for loopback, or for no headers");
        return None;
    }
    if endpoint.path.is_empty() {
        let span = raw.endpoint.as_ref().map_or(Span::NOWHERE, |text| text.span);
        let problem = context.problems.warning(span, "the collector's URL has no path");
        problem.help(format!("collectors take spans at {PATH}"));
    }
    let sampling = match &raw.sample_ratio {
        Some(share) => Sampling { parent: Parent::Heeded, share: share.value },
        None => sampling(context),
    };
    Some(Settings { endpoint: endpoint.to_string(), headers, resource: resource(raw, context), sampling })
}

/// The endpoint of the file. Without a host of its own it is not sent anywhere.
fn written(text: &At<Text>, context: &mut Context<'_>) -> Option<Url> {
    match Url::parse_open(&text.value, Query::Refused) {
        Ok(url) => Some(url),
        Err(error) => {
            // Not quoted: it may hold a key.
            let problem = context.problems.error(text.span, format!("`endpoint` {error}"));
            problem.help("write it as in \"http://localhost:4318/v1/traces\"; keys belong in `headers`");
            None
        }
    }
}

fn from_environment(context: &mut Context<'_>) -> Option<Url> {
    const WHOLE: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const BASE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let (name, text) = match (filled(WHOLE, context), filled(BASE, context)) {
        (Some(whole), _) => (WHOLE, whole),
        (None, base) => (BASE, format!("{}{PATH}", base?.trim_end_matches('/'))),
    };
    if switched_off(context).is_some() {
        return None;
    }
    let protocol = either("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL", context);
    if protocol.is_some_and(|protocol| protocol == "grpc") {
        let message = format!("{name} is an endpoint for gRPC, which countersign does not speak: nothing is traced");
        let problem = context.problems.warning(Span::NOWHERE, message);
        problem.help("write the collector's HTTP endpoint (port 4318, mostly) into [traces] `endpoint`");
        return None;
    }
    match Url::parse_open(&text, Query::Refused) {
        Ok(url) => Some(url),
        Err(error) => {
            let message = format!("{name} in the environment {error}: nothing is traced");
            context.problems.warning(Span::NOWHERE, message).help("write it as in http://localhost:4318, or unset it");
            None
        }
    }
}

/// The variable that switches traces off, whatever else is said.
fn switched_off(context: &Context<'_>) -> Option<&'static str> {
    let says = |name: &'static str, word: &str| {
        let value = context.environment.get(name)?;
        value.eq_ignore_ascii_case(word).then_some(name)
    };
    says("OTEL_SDK_DISABLED", "true").or_else(|| says("OTEL_TRACES_EXPORTER", "none"))
}

fn headers(raw: &RawTraces, context: &mut Context<'_>) -> Headers {
    let mut headers: Headers = Vec::new();
    for (key, value) in &raw.headers.value {
        let Some(name) = field_name("headers", &key.value, key.span, context) else { continue };
        let source = match &value.value {
            RawFieldValue::Text(text) => SecretSource::Fixed(Secret::from(&**text)),
            RawFieldValue::Secret(secret) => match secret::find(&key.value, secret, context) {
                Some(source) => source,
                None => continue,
            },
        };
        let secret = match source {
            SecretSource::Fixed(secret) => LocalSecret::Fixed(secret),
            SecretSource::File(path) => LocalSecret::File(path),
            SecretSource::Stored(_) => {
                let problem = context.problems.error(value.span, "a header for a collector cannot come from a store");
                problem.help("write { file = \"path\" } or { env = \"NAME\" }");
                continue;
            }
        };
        if secret.read().is_ok_and(|secret| !is_value(secret.expose())) {
            let message = format!("the value of {name} has a character that no header may have");
            let problem = context.problems.error(value.span, message);
            problem.help("header values are printable ASCII, spaces and tabs; no line breaks");
        }
        if headers.iter().any(|(known, _)| *known == name) {
            let problem = context.problems.error(key.span, format!("{name} is set twice"));
            problem.help("upper and lower case make no difference in header names");
        }
        headers.push((name, secret));
    }
    headers
}

fn is_value(text: &str) -> bool {
    text.is_ascii() && HeaderValue::from_str(text).is_ok()
}

fn headers_of(context: &mut Context<'_>) -> Headers {
    const NAMES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
    let Some(text) = either(NAMES[0], NAMES[1], context) else { return Vec::new() };
    let mut headers = Vec::new();
    for (name, value) in pairs(&text) {
        match name.parse::<HeaderName>() {
            Ok(name) if is_value(&value) => headers.push((name, LocalSecret::Fixed(Secret::new(value)))),
            // Neither is quoted: who swaps them has put the secret first.
            _ => {
                let message = format!("{} in the environment has a member that is no header", NAMES[1]);
                context.problems.warning(Span::NOWHERE, message).help("write it as in name=value,name=value");
            }
        }
    }
    headers
}

fn sampling(context: &mut Context<'_>) -> Sampling {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    let Some(name) = filled(SAMPLER, context) else { return Sampling::default() };
    let argument = filled(ARGUMENT, context);
    let share = argument.as_deref().map_or(Some(Share::ALL), |text| Share::new(text.trim().parse().ok()?));
    if share.is_none() && name.ends_with("traceidratio") {
        let message = format!("{ARGUMENT} in the environment is not between 0 and 1: all traces are recorded");
        context.problems.warning(Span::NOWHERE, message).help("0.1 is every tenth");
    }
    Sampling::named(name.trim(), share.unwrap_or(Share::ALL)).unwrap_or_else(|| {
        let message = format!("{SAMPLER} in the environment is no sampler of countersign's: {name:?}");
        let help = "known are always_on, always_off, traceidratio and the same behind parentbased_";
        context.problems.warning(Span::NOWHERE, message).help(help);
        Sampling::default()
    })
}

/// What the spans say of this program, each name once.
fn resource(raw: &RawTraces, context: &mut Context<'_>) -> Vec<(String, String)> {
    const NAME: &str = "service.name";
    let environment = filled("OTEL_RESOURCE_ATTRIBUTES", context).map(|text| pairs(&text)).unwrap_or_default();
    let written = raw.resource.value.iter().map(|(name, value)| (name.value.clone(), str::to_owned(&value.value)));
    let service = raw.service_name.as_ref().map(|name| str::to_owned(&name.value));
    let service = service.or_else(|| filled("OTEL_SERVICE_NAME", context));
    let mut resource = vec![
        (NAME.to_owned(), env!("CARGO_PKG_NAME").to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let service = service.map(|service| (NAME.to_owned(), service));
    for (name, value) in environment.into_iter().chain(written).chain(service) {
        match resource.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => resource.push((name, value)),
        }
    }
    resource
}

/// `name=value,name=value`, percent-encoded as in W3C Baggage.
fn pairs(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).filter(|(name, _)| !name.is_empty()).collect()
}

fn either(special: &str, general: &str, context: &Context<'_>) -> Option<String> {
    filled(special, context).or_else(|| filled(general, context))
}

/// By the specification, an empty variable is none.
fn filled(name: &str, context: &Context<'_>) -> Option<String> {
    context.environment.get(name).filter(|value| !value.trim().is_empty()).map(|value| value.trim().to_owned())
}
