//! From the request that came to the one that goes out: target, fields, body.
//!
//! The outgoing path and query are built once, here; what is signed and what is sent are that same value. Fields that a
//! caller may not send are taken out before ours are put in, so no `Connection` line can nominate ours away. Imports
//! `message`, `route`, `auth`, `telemetry`.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};

use super::conceal::Secrets;
use super::guard::Admitted;
use super::outcome::ProxyError;
use super::pool::Form;
use crate::auth::request::{Grant, Unsigned};
use crate::auth::spec::{Coverage, PayloadSigning};
use crate::message::body::{self, Budget, OutboundBody, Sha256Hex, Upload};
use crate::message::fields::{self, CallerIdentity, Copied, IDEMPOTENCY_KEY, REQUEST_ID};
use crate::message::target::{self, Target, TargetError};
use crate::message::websocket::{UPGRADE, WEBSOCKET};
use crate::route::{HeaderEdits, IdempotencyKeys, Origin, Route};
use crate::telemetry::traces::context::{TRACEPARENT, TRACESTATE};
use crate::telemetry::traces::{Onward, State};

/// A request on its way out, not yet authorised: nothing can send it.
#[derive(Debug)]
pub struct Outbound {
    line: Arc<Line>,
    headers: HeaderMap,
    body: OutboundBody,
    purpose: Purpose,
}

/// What is known of a request besides its fields and its body. It stays where it is while the request goes from hand to
/// hand.
#[derive(Debug)]
struct Line {
    origin: Arc<Origin>,
    method: Method,
    path_and_query: PathAndQuery,
    payload: Option<Sha256Hex>,
    upload: Arc<Upload>,
}

/// What a request is sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An answer.
    Answer,
    /// Bytes both ways, after a 101.
    WebSocket,
}

/// A request that was authorised: nothing can change it.
#[derive(Debug)]
pub struct Sealed(Box<Outbound>);

/// Rewrites `admitted` for `route`; reads and hashes the body if `coverage` says so.
///
/// # Errors
/// [`ProxyError`]: a target that this route refuses, or a body that cannot be held.
pub async fn toward(
    admitted: Box<Admitted>,
    route: &Route,
    coverage: Coverage,
    budget: &Budget,
    request_id: HeaderValue,
) -> Result<Box<Outbound>, ProxyError> {
    let via = fields::via(admitted.version());
    let (method, mut headers, target, incoming) = admitted.into_parts();
    let path_and_query = outgoing_target(&target, route, coverage)?;
    outgoing_fields(&mut headers, route, coverage, via, |_| {});
    headers.insert(REQUEST_ID, request_id);
    let upload = Arc::new(Upload::default());
    let (body, payload) = if coverage == Coverage::Signature(PayloadSigning::Signed) {
        let held = body::hold(incoming, route.max_body, budget, route.upload_idle_timeout, &upload).await;
        let (body, hash) = held.map_err(ProxyError::Body)?;
        (body, Some(hash))
    } else {
        (OutboundBody::streaming(incoming, route.upload_idle_timeout, route.replay_buffer, Arc::clone(&upload)), None)
    };
    let origin = Arc::clone(&route.upstream.origin);
    let line = Arc::new(Line { origin, method, path_and_query, payload, upload });
    Ok(Box::new(Outbound { line, headers, body, purpose: Purpose::Answer }))
}

/// The path and query that go out.
///
/// # Errors
/// [`TargetError`] by the rules of the route and its auth.
pub(super) fn outgoing_target(target: &Target, route: &Route, coverage: Coverage) -> Result<PathAndQuery, TargetError> {
    if target.has_encoded_slash() && !route.allow_encoded_slash {
        return Err(TargetError::EncodedSlash);
    }
    let canonical;
    let query = match (coverage, target.query()) {
        (Coverage::Signature(_), Some(query)) => {
            canonical = target::canonical_query(query)?;
            Some(canonical.as_str())
        }
        (Coverage::Token, Some(query)) => {
            target::refuse_presigned(query)?;
            Some(query)
        }
        (_, query) => query,
    };
    let strip = match route.path.as_str() {
        "/" => "",
        path if route.strip_path => path,
        _ => "",
    };
    target.rebase(strip, &route.upstream.base_path, query)
}

/// Takes out what may not pass and puts in what the route sets.
pub(super) fn outgoing_fields(
    headers: &mut HeaderMap,
    route: &Route,
    coverage: Coverage,
    via: HeaderValue,
    mut removed: impl FnMut(&HeaderName),
) {
    let identity = match coverage {
        Coverage::Nothing => CallerIdentity::Passed,
        Coverage::Token | Coverage::Signature(_) => CallerIdentity::Replaced,
    };
    fields::strip_request(headers, identity, &mut removed);
    for name in &route.request_headers.remove {
        if headers.remove(name).is_some() {
            removed(name);
        }
    }
    let HeaderEdits { set, secrets, remove: _ } = &route.request_headers;
    let is_ours = |name: &str| set.iter().any(|(ours, _)| ours == name) || secrets.iter().any(|(ours, _)| ours == name);
    fields::strip_twins(headers, is_ours);
    for (name, _) in secrets {
        headers.remove(name);
    }
    for (name, value) in set {
        headers.insert(name, value.clone());
    }
    // Behind those of the proxies before us, where the guard let them pass.
    headers.append(header::VIA, via);
}

impl Outbound {
    /// What an authoriser sees.
    pub fn unsigned(&self) -> Unsigned<'_> {
        Unsigned {
            method: &self.line.method,
            authority: &self.line.origin.authority,
            path_and_query: &self.line.path_and_query,
            headers: &self.headers,
            payload: self.line.payload.as_ref(),
        }
    }

    /// Sets a field that a credential keeps.
    pub(super) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    /// Leads the caller's trace on, unless the route has a say in that: behind the hop-by-hop strip, so that no caller
    /// can nominate it away.
    pub(super) fn lead_on(&mut self, onward: &Onward, edits: &HeaderEdits) {
        let is_routes = |name: &HeaderName| {
            let (mut set, mut secrets) = (edits.set.iter(), edits.secrets.iter());
            edits.remove.contains(name) || set.any(|(set, _)| set == name) || secrets.any(|(set, _)| set == name)
        };
        if is_routes(&TRACEPARENT) {
            return;
        }
        self.headers.insert(TRACEPARENT, onward.parent.clone());
        if onward.state == State::Dropped && !is_routes(&TRACESTATE) {
            self.headers.remove(TRACESTATE);
        }
    }

    /// How far its body has come.
    pub fn upload(&self) -> &Arc<Upload> {
        &self.line.upload
    }

    /// What it is sent for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Makes it a WebSocket handshake of our own; the caller's has ended here like every hop-by-hop field. Neither
    /// field is signed.
    pub fn ask_for_websocket(&mut self) {
        self.purpose = Purpose::WebSocket;
        self.headers.insert(header::CONNECTION, UPGRADE);
        self.headers.insert(header::UPGRADE, WEBSOCKET);
    }

    /// Applies `grant`; from here on nothing changes. What a second send would need is put aside, as it was before the
    /// grant: a signer would take the fields of an earlier one for the caller's.
    pub(super) fn seal(mut self: Box<Self>, grant: Grant) -> (Sealed, Spare) {
        let (fields, granted) = (Copied::of(&self.headers), grant.into_fields());
        for (name, value) in &granted {
            self.headers.insert(name, value.clone());
        }
        fields::strip_twins(&mut self.headers, |name| granted.iter().any(|(ours, _)| ours == name));
        let (line, body) = (Arc::clone(&self.line), self.body.replay());
        let spare = Spare { line, fields, granted, body, purpose: self.purpose };
        (Sealed(self), spare)
    }
}

impl Sealed {
    /// How far its body has come.
    pub(super) fn upload(&self) -> Arc<Upload> {
        Arc::clone(&self.0.line.upload)
    }

    /// What it is sent for.
    pub(super) fn purpose(&self) -> Purpose {
        self.0.purpose
    }

    /// Its body, because there is nothing to send it on.
    pub(super) fn into_body(self) -> OutboundBody {
        self.0.body
    }

    /// Writes it down in the form of a connection to `origin`, whose name is `host`.
    pub(super) fn into_request(self, origin: &Origin, host: &HeaderValue, form: Form) -> Request<OutboundBody> {
        let Outbound { line, mut headers, mut body, purpose: _ } = *self.0;
        let method = line.method.clone();
        let mut uri = http::uri::Parts::default();
        uri.path_and_query = Some(line.path_and_query.clone());
        let version = match form {
            Form::Http1 | Form::Absolute => {
                if form == Form::Absolute {
                    uri.scheme = Some(origin.scheme.clone());
                    uri.authority = Some(origin.authority.clone());
                }
                headers.insert(header::HOST, host.clone());
                Version::HTTP_11
            }
            Form::Http2 => {
                uri.scheme = Some(origin.scheme.clone());
                uri.authority = Some(origin.authority.clone());
                if !method.is_idempotent() {
                    body = body.ending_apart();
                }
                Version::HTTP_2
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.version_mut() = version;
        *request.headers_mut() = headers;
        request
    }
}

/// A request that may have to be sent once more. Its fields are those that it had before it was authorised.
#[derive(Debug)]
pub(super) struct Spare {
    line: Arc<Line>,
    fields: Copied,
    granted: Vec<(HeaderName, HeaderValue)>,
    /// Where it can be had twice.
    body: Option<OutboundBody>,
    purpose: Purpose,
}

impl Spare {
    /// Whether doing it twice is the same as once (RFC 9110 9.2.2); of other methods `keys` may say so.
    pub(super) fn is_idempotent(&self, keys: IdempotencyKeys) -> bool {
        let by_key = keys == IdempotencyKeys::Trusted && self.fields.contains(&IDEMPOTENCY_KEY);
        self.line.method.is_idempotent() || by_key
    }

    /// What of the request must not come back to the caller.
    pub(super) fn secrets(&self) -> Secrets {
        let granted = self.granted.iter().map(|(_, value)| value).filter(|value| value.is_sensitive());
        Secrets::new(granted.cloned().chain(self.fields.sensitive()).collect())
    }

    /// The request, not yet authorised, with `body`, which came back unsent.
    pub(super) fn with(self, body: OutboundBody) -> Box<Outbound> {
        Box::new(Outbound { headers: self.fields.to_map(), line: self.line, body, purpose: self.purpose })
    }

    /// The request after its connection has failed, not yet authorised, if nothing of its body is lost.
    pub(super) async fn recover(mut self) -> Option<Box<Outbound>> {
        let body = match self.body.take() {
            Some(body) => body,
            None => self.line.upload.recover().await?,
        };
        Some(self.with(body))
    }

    /// The request without its body, for what is said of its answer.
    pub(super) fn without_body(&self) -> Outbound {
        let (headers, line) = (self.fields.to_map(), Arc::clone(&self.line));
        Outbound { line, headers, body: OutboundBody::empty(), purpose: self.purpose }
    }

    /// The request, not yet authorised, if its whole body is still at hand.
    pub(super) fn into_outbound(mut self) -> Option<Box<Outbound>> {
        let body = self.body.take().or_else(|| self.line.upload.replay())?;
        Some(self.with(body))
    }
}
