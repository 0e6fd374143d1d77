//! Spans in the words of OpenTelemetry: OTLP's messages in protobuf, attributes by its semantic conventions for HTTP servers.
//!
//! Imports nothing of ours but its neighbors.

use std::time::SystemTime;

use http::Version;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{self as otlp, ResourceSpans, ScopeSpans, Status};
use prost::Message as _;

use super::span::{End, Ended};
use crate::telemetry::phases::Phase;

/// The conventions that the attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";
/// Methods that the conventions know; others are `_OTHER`, so that a caller cannot make up names without end.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK` and `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`: who is above a request's span is
/// always somebody else.
const REMOTE: u32 = 0x300;

/// The body of a POST to the collector.
pub fn request(resource: &[(String, String)], spans: &[Ended]) -> Vec<u8> {
    let attributes = resource.iter().map(|(name, value)| text(name, value)).collect();
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = spans.iter().map(span).collect();
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, schema_url: SCHEMA.to_owned() }],
            schema_url: SCHEMA.to_owned(),
        }],
    };
    request.encode_to_vec()
}

/// How many spans a collector did not take, of a batch that it did, and why; nothing where its answer says nothing of it.
pub fn rejected(answer: &[u8]) -> Option<(u64, String)> {
    let partial = ExportTraceServiceResponse::decode(answer).ok()?.partial_success?;
    let rejected = u64::try_from(partial.rejected_spans).ok().filter(|rejected| *rejected > 0)?;
    Some((rejected, partial.error_message))
}

fn span(ended: &Ended) -> otlp::Span {
    let Ended { span, end } = ended;
    let known = METHODS.contains(&span.method.as_str());
    let method = if known { span.method.as_str() } else { "_OTHER" };
    let name = match &end.route {
        // The route is what there is of a low-cardinality target.
        Some(route) => format!("{} {route}", if known { method } else { "HTTP" }),
        None => (if known { method } else { "HTTP" }).to_owned(),
    };
    let event = |(phase, at): (Phase, SystemTime)| Event {
        time_unix_nano: nanoseconds(at),
        name: phase.as_str().to_owned(),
        ..Event::default()
    };
    let mut attributes =
        vec![text("http.request.method", method), text("url.path", &span.path), text("url.scheme", span.scheme)];
    if !known {
        attributes.push(text("http.request.method_original", span.method.as_str()));
    }
    if let Some(version) = version(span.version) {
        attributes.push(text("network.protocol.version", version));
    }
    if let Some(host) = &span.host {
        attributes.push(text("server.address", host.host()));
        if let Some(port) = host.port_u16() {
            attributes.push(number("server.port", port.into()));
        }
    }
    if let Some(upstream) = &span.upstream {
        attributes.push(text("countersign.upstream", upstream.as_str()));
    }
    ending(&mut attributes, end);
    otlp::Span {
        trace_id: span.context.trace.get().to_be_bytes().to_vec(),
        span_id: span.context.span.get().to_be_bytes().to_vec(),
        trace_state: span.state.clone().unwrap_or_default(),
        parent_span_id: span.parent.map(|parent| parent.get().to_be_bytes().to_vec()).unwrap_or_default(),
        flags: u32::from(span.context.flags()) | if span.parent.is_some() { REMOTE } else { 0 },
        name,
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanoseconds(span.began),
        end_time_unix_nano: nanoseconds(span.wall(end.at)),
        attributes,
        events: span.phases().map(event).collect(),
        status: Some(status(end)),
        ..otlp::Span::default()
    }
}

fn ending(attributes: &mut Vec<KeyValue>, end: &End) {
    if let Some(status) = end.status {
        attributes.push(number("http.response.status_code", status.as_u16().into()));
    }
    if let Some(error) = error_type(end) {
        attributes.push(text("error.type", &error));
    }
    attributes.push(text("countersign.route", end.route.as_deref().unwrap_or("none")));
    attributes.push(text("countersign.outcome", end.outcome));
    attributes.push(text("countersign.request_id", &end.request_id));
    if let Some(id) = &end.upstream_id {
        attributes.push(text("aws.request_id", id));
    }
    if end.sends > 1 {
        attributes.push(number("http.request.resend_count", i64::from(end.sends) - 1));
    }
    attributes.push(number("http.request.body.size", count(end.received)));
    attributes.push(number("http.response.body.size", count(end.sent)));
}

/// A word of few: our outcome where the request did not end as it should, the status where the upstream failed.
fn error_type(end: &End) -> Option<String> {
    let own = end.outcome != "delivered" && end.outcome != "answered";
    let failed = end.status.filter(http::StatusCode::is_server_error);
    if own { Some(end.outcome.to_owned()) } else { failed.map(|status| status.as_str().to_owned()) }
}

/// A client's own fault is none of the server's (semantic conventions for HTTP spans, "Status").
fn status(end: &End) -> Status {
    let code = if end.failed { StatusCode::Error } else { StatusCode::Unset };
    Status { code: code.into(), message: end.error.clone().filter(|_| end.failed).unwrap_or_default() }
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}

fn text(name: &str, value: &str) -> KeyValue {
    attribute(name, Value::StringValue(value.to_owned()))
}

fn number(name: &str, value: i64) -> KeyValue {
    attribute(name, Value::IntValue(value))
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn count(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
