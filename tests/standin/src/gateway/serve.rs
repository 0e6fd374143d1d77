//! From an accepted connection to an answer: record, authorise, respond.

use std::pin::pin;
use std::sync::Arc;

use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::refusal::Refusal;
use super::tap::Tap;
use super::{Api, ApiKind, BodyEnd, Received, authorize, echo};
use crate::Error;
use crate::body::{Body, full};
use crate::clock::http_date;
use crate::double::{Crew, list};
use crate::encoding::{random_hex, request_id};
use crate::script::Turn;

/// How much of a refused body is read, so that its sender sees the refusal and not a reset: what API Gateway takes.
const DRAINED: u64 = authorize::PAYLOAD_LIMIT;

/// What is known of a connection.
#[derive(Debug, Clone)]
struct Peer {
    number: usize,
    server_name: Option<String>,
}

pub(super) async fn connection(api: Arc<Api>, stream: TcpStream, number: usize, crew: Crew) {
    let Some(tls) = api.tls.clone() else {
        return http1(api, stream, Peer { number, server_name: None }).await;
    };
    // A handshake that fails, or never ends, is the client's affair.
    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
    let (_, session) = stream.get_ref();
    let peer = Peer { number, server_name: session.server_name().map(ToOwned::to_owned) };
    if session.alpn_protocol() == Some(b"h2") {
        http2(api, stream, peer, crew).await;
    } else {
        http1(api, stream, peer).await;
    }
}

async fn http1(api: Arc<Api>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
    let mut leaving = api.leaving.subscribe();
    let service = service_fn(move |request| respond(Arc::clone(&api), peer.clone(), request));
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
    // A failed connection is the other side's affair, or was scripted.
    tokio::select! {
        ended = connection.as_mut() => drop(ended),
        Ok(()) = leaving.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await.ok();
        }
    }
}

async fn http2(api: Arc<Api>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer, crew: Crew) {
    let mut leaving = api.leaving.subscribe();
    let service = service_fn(move |request| respond(Arc::clone(&api), peer.clone(), request));
    let mut connection = pin!(http2::Builder::new(crew).serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => drop(ended),
        Ok(()) = leaving.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await.ok();
        }
    }
}

async fn respond(api: Arc<Api>, peer: Peer, request: Request<Incoming>) -> Result<Response<Body>, Error> {
    let record = api.received.push(describe(&request, peer));
    let (parts, body) = request.into_parts();
    let mut body = Tap::new(body, record.clone());

    if let Turn::Respond(response) = api.script.turn().await? {
        record.amend(|received| received.verdict = Err("answered by the script".to_owned()));
        return Ok(response.map(full));
    }
    let mut response = match authorize::authorize(&api, &parts, &mut body).await? {
        Ok(granted) => {
            record.amend(|received| {
                received.verdict = Ok(granted.by.to_owned());
                received.principal = granted.principal.name().map(ToOwned::to_owned);
            });
            let body = granted.payload.map_or_else(|| BodyExt::boxed(body), full);
            let request = Request::from_parts(parts, body);
            match longest(&api.responders, request.uri().path()) {
                Some(responder) => (responder.0)(request, granted.principal).await,
                None => echo::answer(request, &granted.principal).await?,
            }
        }
        Err(refusal) => {
            record.amend(|received| received.verdict = Err(refusal.reason.clone()));
            if drains(&refusal, &parts.headers) {
                body.drain(DRAINED).await;
            }
            refusal.into_response(api.kind)
        }
    };
    stamp(&api, &mut response);
    Ok(response)
}

/// The entry of the longest prefix of whole segments.
pub(super) fn longest<'a, T>(entries: &'a [(String, T)], path: &str) -> Option<&'a T> {
    let covers = |prefix: &str| {
        let prefix = prefix.trim_end_matches('/');
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let covering = entries.iter().filter(|(prefix, _)| covers(prefix));
    covering.max_by_key(|(prefix, _)| prefix.len()).map(|(_, entry)| entry)
}

fn describe(request: &Request<Incoming>, peer: Peer) -> Received {
    let uri = request.uri();
    let field = request.headers().get("host").and_then(|host| host.to_str().ok());
    let host = authority(request.version(), uri).or(field).map(ToOwned::to_owned);
    Received {
        method: request.method().to_string(),
        target: target(uri),
        version: request.version(),
        host,
        server_name: peer.server_name,
        connection: peer.number,
        headers: list(request.headers()),
        body_len: 0,
        body_sha256: String::new(),
        body_end: BodyEnd::Arriving,
        trailers: Vec::new(),
        principal: None,
        verdict: Err("not judged yet".to_owned()),
    }
}

/// Path and query; what else a request-target may be (`*`) as it is.
pub(super) fn target(uri: &http::Uri) -> String {
    uri.path_and_query().map_or_else(|| uri.to_string(), ToString::to_string)
}

/// `:authority`. An absolute-form target of HTTP/1.1 has an authority too, but there `Host` is what clients sign.
pub(super) fn authority(version: http::Version, uri: &http::Uri) -> Option<&str> {
    uri.authority().filter(|_| version == http::Version::HTTP_2).map(http::uri::Authority::as_str)
}

/// A body beyond the limit is not read on, and who waits for `100 Continue` must not get it.
fn drains(refusal: &Refusal, headers: &http::HeaderMap) -> bool {
    refusal.allows_draining() && !headers.contains_key("expect")
}

/// The fields every answer of API Gateway has.
fn stamp(api: &Api, response: &mut Response<Body>) {
    let value = |text: String| HeaderValue::try_from(text).expect("dates and ids are valid field values");
    let headers = response.headers_mut();
    headers.entry("date").or_insert_with(|| value(http_date(api.clock.now())));
    match api.kind {
        ApiKind::Rest => {
            headers.entry("x-amzn-requestid").or_insert_with(|| value(request_id()));
            headers.entry("x-amz-apigw-id").or_insert_with(|| value(random_hex(8)));
        }
        ApiKind::Http => {
            headers.entry("apigw-requestid").or_insert_with(|| value(random_hex(8)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::longest;

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let entries = [("/".to_owned(), 0), ("/prod/orders".to_owned(), 2), ("/prod".to_owned(), 1)];
        for (path, entry) in [("/", 0), ("/prod", 1), ("/prod/ordersx", 1), ("/prod/orders/4", 2), ("/product", 0)] {
            assert_eq!(longest(&entries, path), Some(&entry), "{path}");
        }
        assert_eq!(longest(&entries[1..], "/other"), None);
    }
}
