//! The canonical request (docs/aws.md A1 to A3), made from what arrived.

use super::Presented;
use crate::encoding::{form_decode, percent_encode};

/// The canonical request over these fields, whose names are sorted.
pub(super) fn request(request: &Presented<'_>, signed: &[&str]) -> String {
    let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
    let fields: Vec<String> = signed.iter().map(|name| format!("{name}:{}\n", field(request, name))).collect();
    let fields = fields.concat();
    let (method, path, query) = (request.method, self::path(path), self::query(query));
    format!("{method}\n{path}\n{query}\n{fields}\n{}\n{}", signed.join(";"), request.payload)
}

/// Dot segments resolved, slashes collapsed, and every byte of the wire encoded once more.
fn path(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    // Only a slash at the very end counts: `/a/.` is `/a`, as botocore, awscrt and ministack have it.
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    percent_encode(format!("/{}{end}", segments.join("/")).as_bytes(), b"/")
}

/// Each name and value decoded and encoded anew, in order of the encoded.
fn query(query: &str) -> String {
    let encode = |text: &[u8]| percent_encode(&form_decode(text), b"");
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encode(name.as_bytes()), encode(value.as_bytes())))
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

/// The values of a field, each trimmed and with runs of spaces made one, joined by commas.
///
/// Of the fields AWS's front end takes off or writes anew, the value a client signed is not seen here, so that signing
/// one is the mistake it is in life.
fn field(request: &Presented<'_>, name: &str) -> String {
    const REWRITTEN: [&str; 10] = [
        "connection",
        "expect",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-amzn-trace-id",
    ];
    if REWRITTEN.contains(&name) || name.starts_with("x-forwarded-") {
        return String::new();
    }
    if let ("host", Some(authority)) = (name, request.authority) {
        return authority.to_owned();
    }
    let values: Vec<String> = request.values(name).into_iter().map(collapse).collect();
    values.join(",")
}

fn collapse(value: &[u8]) -> String {
    let value = String::from_utf8_lossy(value);
    let words: Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_path_is_normalised_and_encoded_a_second_time() {
        for (wire, canonical) in [
            ("", "/"),
            ("/", "/"),
            ("//example//", "/example/"),
            ("/example1/example2/../..", "/"),
            ("/./example", "/example"),
            ("/a/b/..", "/a"),
            ("/$default/%40connections/x%3D", "/%24default/%2540connections/x%253D"),
            ("/a%2Fb/c", "/a%252Fb/c"),
            ("/\u{1234}", "/%E1%88%B4"),
        ] {
            assert_eq!(super::path(wire), canonical, "{wire}");
        }
    }

    #[test]
    fn a_query_is_decoded_encoded_and_sorted() {
        for (wire, canonical) in [
            ("", ""),
            ("b=2&a=1&a=0&&c", "a=0&a=1&b=2&c="),
            ("q=a+b", "q=a%20b"),
            ("q=a%2Bb", "q=a%2Bb"),
            ("q=%ff", "q=%FF"),
            ("a=*!'()&=v", "=v&a=%2A%21%27%28%29"),
            ("a=b=c", "a=b%3Dc"),
            ("%7e=~", "~=~"),
        ] {
            assert_eq!(super::query(wire), canonical, "{wire}");
        }
    }
}
