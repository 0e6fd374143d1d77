//! What API Gateway calls a request: the ids by which its logs and AWS's support find it.
//!
//! A REST API sends `x-amzn-requestid` and, as the extended one, `x-amz-apigw-id`; an HTTP API sends `apigw-requestid`.
//! Imports nothing of ours.

use http::{HeaderMap, HeaderName, HeaderValue};

const REST: HeaderName = HeaderName::from_static("x-amzn-requestid");
const HTTP: HeaderName = HeaderName::from_static("apigw-requestid");
const EXTENDED: HeaderName = HeaderName::from_static("x-amz-apigw-id");
/// A UUID has 36.
const LONGEST: usize = 128;

/// The ids of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayIds {
    request: Option<HeaderValue>,
    extended: Option<HeaderValue>,
}

impl GatewayIds {
    /// Those of an answer; `None` where it has none that can be logged. Boxed, since not every answer has one.
    pub fn read(headers: &HeaderMap) -> Option<Box<Self>> {
        let read = |name: &HeaderName| headers.get(name).filter(|value| is_id(value)).cloned();
        let (request, extended) = (read(&REST).or_else(|| read(&HTTP)), read(&EXTENDED));
        (request.is_some() || extended.is_some()).then(|| Box::new(Self { request, extended }))
    }

    /// `$context.requestId` of the API's access log.
    pub fn request(&self) -> Option<&str> {
        self.request.as_ref()?.to_str().ok()
    }

    /// `$context.extendedRequestId`.
    pub fn extended(&self) -> Option<&str> {
        self.extended.as_ref()?.to_str().ok()
    }
}

fn is_id(value: &HeaderValue) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.=+/:".contains(byte);
    (1..=LONGEST).contains(&value.len()) && value.as_bytes().iter().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&'static str, &str)]) -> Option<(Option<String>, Option<String>)> {
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let ids = GatewayIds::read(&fields.collect())?;
        Some((ids.request().map(ToOwned::to_owned), ids.extended().map(ToOwned::to_owned)))
    }

    #[test]
    fn the_ids_of_both_kinds_of_api_are_read_and_nothing_else() {
        let (uuid, short) = ("c6af9ac6-7b61-11e6-9a41-93e8deadbeef", "JKJaXmPLvHcESHA=");
        let some = |text: &str| Some(text.to_owned());
        let rest = [("x-amzn-requestid", uuid), ("x-amz-apigw-id", short)];
        assert_eq!(read(&rest), Some((some(uuid), some(short))));
        assert_eq!(read(&[("apigw-requestid", short)]), Some((some(short), None)));
        for other in [&[] as &[_], &[("x-amzn-requestid", "a b")], &[("apigw-requestid", &"x".repeat(129))]] {
            assert_eq!(read(other), None);
        }
    }
}
