//! Header fields that a route sets or removes, and those that are not the config's to touch.

use http::{HeaderName, HeaderValue};

use super::Context;
use super::secret;
use crate::auth::spec::{SecretField, SecretSource};
use crate::config::diagnostic::Span;
use crate::config::raw::{RawFieldValue, RawRequestHeaders};
use crate::config::read::At;
use crate::route::HeaderEdits;

/// Which fields a route's own authorisation writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AuthFields {
    /// `auth = "none"`, or it is not known yet.
    None,
    /// A token in this one.
    Bearer(HeaderName),
    /// `authorization` and `x-amz-*`.
    SigV4,
}

/// The changes of one route.
pub(super) fn edits(raw: &RawRequestHeaders, auth: &AuthFields, context: &mut Context<'_>) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    let mut set = Vec::new();
    for (key, value) in &raw.set.value {
        let value = field_value(key, value, context);
        let Some(name) = field_name("request_headers.set", &key.value, key.span, context) else { continue };
        refuse_owned(&name, key.span, auth, context);
        if set.contains(&name) {
            let problem = context.problems.error(key.span, format!("{name} is set twice"));
            problem.help("upper and lower case make no difference in header names");
        }
        set.push(name.clone());
        match value {
            None => {}
            Some(FieldValue::Fixed(value)) => edits.set.push((name, value)),
            Some(FieldValue::Live(secret)) => {
                let known = context.fields.iter().position(|field| field.secret == secret);
                let index = known.unwrap_or_else(|| {
                    context.fields.push(SecretField { name: name.as_str().into(), secret });
                    context.fields.len() - 1
                });
                edits.secrets.push((name, index));
            }
        }
    }
    for item in &raw.remove.value {
        let Some(name) = field_name("request_headers.remove", &item.value, item.span, context) else { continue };
        refuse_owned(&name, item.span, auth, context);
        if raw.set.value.iter().any(|(set, _)| set.value.eq_ignore_ascii_case(name.as_str())) {
            let problem = context.problems.error(item.span, format!("{name} is both set and removed"));
            problem.help("`set` alone already replaces what the client sent");
        }
        edits.remove.push(name);
    }
    edits
}

/// A header's name; a problem is noted when it is none.
pub(super) fn field_name(key: &str, text: &str, span: Span, context: &mut Context<'_>) -> Option<HeaderName> {
    let name = text.parse().ok();
    if name.is_none() {
        let problem = context.problems.error(span, format!("`{key}`: this is not a header name"));
        problem.help("letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 5.6.2)");
    }
    name
}

/// Whether countersign alone writes the field on a route that signs.
pub(in crate::config) fn is_written_by_signing(name: &HeaderName) -> bool {
    owner(name).is_some() || is_signatures(name)
}

fn is_signatures(name: &HeaderName) -> bool {
    *name == http::header::AUTHORIZATION || name.as_str().starts_with("x-amz-")
}

/// Why a field is countersign's to write, if it is.
pub(super) fn owner(name: &HeaderName) -> Option<&'static str> {
    match name.as_str() {
        "host" => Some("it is the upstream's name"),
        "content-length" | "transfer-encoding" | "trailer" | "expect" => Some("it frames the body"),
        "connection" | "te" | "upgrade" | "keep-alive" => Some("it is about one connection (RFC 9110 7.6.1)"),
        "via" | "x-request-id" => Some("it follows the request from hop to hop"),
        name if name.starts_with("proxy-") || name.starts_with("x-countersign-") => {
            Some("it is between a client and its proxy")
        }
        _ => None,
    }
}

fn refuse_owned(name: &HeaderName, span: Span, auth: &AuthFields, context: &mut Context<'_>) {
    if let Some(reason) = owner(name) {
        context.problems.error(span, format!("{name} is written by countersign: {reason}")).help("take it out");
        return;
    }
    if *auth == AuthFields::SigV4 && is_signatures(name) || *auth == AuthFields::Bearer(name.clone()) {
        let problem = context.problems.error(span, format!("{name} is written by this route's `auth`"));
        problem.help("take it out, or set `auth = \"none\"`");
    }
}

/// What a field is set to.
enum FieldValue {
    Fixed(HeaderValue),
    /// It may change.
    Live(SecretSource),
}

fn field_value(name: &At<String>, value: &At<RawFieldValue>, context: &mut Context<'_>) -> Option<FieldValue> {
    let text = match &value.value {
        RawFieldValue::Text(text) => {
            return fixed(name, value.span, text, text.is_filled_in(), context).map(FieldValue::Fixed);
        }
        RawFieldValue::Secret(raw) => secret::find(&name.value, raw, context)?,
    };
    let Some(secret) = secret::known(&text) else { return Some(FieldValue::Live(text)) };
    let now = fixed(name, value.span, secret.expose(), true, context)?;
    Some(if let SecretSource::Fixed(_) = text { FieldValue::Fixed(now) } else { FieldValue::Live(text) })
}

fn fixed(name: &At<String>, span: Span, text: &str, sensitive: bool, context: &mut Context<'_>) -> Option<HeaderValue> {
    // The http crate would also take bytes beyond ASCII, which servers read in different ways (RFC 9110 5.5).
    match HeaderValue::from_str(text) {
        Ok(mut header) if text.is_ascii() => {
            header.set_sensitive(sensitive);
            Some(header)
        }
        _ => {
            let message = format!("the value of {} has a character that no header may have", name.value);
            let problem = context.problems.error(span, message);
            problem.help("header values are printable ASCII, spaces and tabs; no line breaks");
            None
        }
    }
}
