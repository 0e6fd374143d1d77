//! The integration behind an authorised method: it says what it was given.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use serde_json::json;

use super::Principal;
use super::serve::target;
use crate::Error;
use crate::body::{Body, full};
use crate::encoding::hex;

/// Fields whose value is a credential: of them the demo shows only that they are there.
const CREDENTIALS: [&str; 4] = ["authorization", "proxy-authorization", "x-amz-security-token", "x-api-key"];

/// Reads the body to its end, keeping a piece at a time, and answers 200 with what came.
pub(super) async fn answer(request: Request<Body>, principal: &Principal) -> Result<Response<Body>, Error> {
    let (parts, mut body) = request.into_parts();
    let (mut hash, mut length) = (digest::Context::new(&digest::SHA256), 0);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            hash.update(&data);
            length += data.len() as u64;
        }
    }
    // The record of the body ends before its sender can read the answer.
    drop(body);

    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &parts.headers {
        headers.entry(name.as_str()).or_default().push(shown(name.as_str(), value));
    }
    let headers: BTreeMap<&str, String> = headers.into_iter().map(|(name, values)| (name, values.join(", "))).collect();
    let echo = json!({
        "method": parts.method.as_str(),
        "target": target(&parts.uri),
        "headers": headers,
        "body_bytes": length,
        "body_sha256": hex(hash.finish().as_ref()),
        "principal": principal.name(),
    });
    let text = serde_json::to_string_pretty(&echo).expect("a Value is always JSON");
    let mut response = Response::new(full(text + "\n"));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    Ok(response)
}

fn shown(name: &str, value: &HeaderValue) -> String {
    let value = String::from_utf8_lossy(value.as_bytes());
    if !CREDENTIALS.contains(&name) {
        return value.into_owned();
    }
    let scheme = value.split_once(' ').map(|(scheme, _)| format!("{scheme} ")).unwrap_or_default();
    format!("{scheme}({} bytes)", value.len() - scheme.len())
}
