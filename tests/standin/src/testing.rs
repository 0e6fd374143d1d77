//! A client of a few lines, for this crate's own tests.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::body::Body;
use crate::{Authority, Error};

pub(crate) async fn get(url: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
    send("GET", url, headers, "").await.expect("the double answers")
}

pub(crate) async fn post(url: &str, headers: &[(&str, &str)], body: &str) -> Response<Bytes> {
    send("POST", url, headers, body).await.expect("the double answers")
}

/// One request over a connection of its own.
pub(crate) async fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Response<Bytes>, Error> {
    let uri: Uri = url.parse()?;
    let authority = uri.authority().expect("the double's URL has an authority").as_str();
    let target = uri.path_and_query().expect("a URL has a path").as_str();
    let mut request = Request::builder().method(method).uri(target).header("host", authority);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send_body(authority, request.body(Full::new(Bytes::from(body.to_owned())).map_err(Into::into).boxed())?).await
}

/// One request over a connection of its own, whole as it is.
pub(crate) async fn send_body(address: &str, request: Request<Body>) -> Result<Response<Bytes>, Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    collect(sender.send_request(request).await?).await
}

/// One request over TLS, in HTTP/2 if that is agreed on.
pub(crate) async fn send_tls(
    port: u16,
    authority: &Authority,
    (name, alpn): (&str, &[&[u8]]),
    request: Request<Body>,
) -> Result<Response<Bytes>, Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned())?, stream).await?;
    let mut driver = JoinSet::new();
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        driver.spawn(connection);
        collect(sender.send_request(request).await?).await
    } else {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        driver.spawn(connection);
        collect(sender.send_request(request).await?).await
    }
}

pub(crate) fn json_body(response: Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(&response.into_body()).expect("the double answers JSON")
}

async fn collect(response: Response<hyper::body::Incoming>) -> Result<Response<Bytes>, Error> {
    let (parts, body) = response.into_parts();
    Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
}
