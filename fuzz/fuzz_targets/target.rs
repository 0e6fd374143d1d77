//! A path that is let in stays within its route's base however often it is decoded, and a query is canonical once.
#![no_main]

use countersign::message::target::{Target, canonical_query};
use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode;

const BASE: &str = "/prod";

/// Where a server that reads `\` as `/`, drops path parameters and resolves dot segments would look.
fn resolved(path: &[u8]) -> Vec<Vec<u8>> {
    let mut segments: Vec<Vec<u8>> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')).skip(1) {
        match segment.split(|byte| *byte == b';').next().unwrap_or_default() {
            b".." => drop(segments.pop()),
            b"." => {}
            name => segments.push(name.to_vec()),
        }
    }
    segments
}

fuzz_target!(|input: &[u8]| {
    let Ok(path_and_query) = PathAndQuery::try_from(input) else { return };
    let Ok(target) = Target::parse(&path_and_query) else { return };
    assert!(path_and_query.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
    if let Ok(outgoing) = target.rebase("", BASE, target.query()) {
        assert_eq!(outgoing.path(), format!("{BASE}{}", target.path()));
        let mut path = outgoing.path().as_bytes().to_vec();
        for _decoding in 0..3 {
            assert_eq!(resolved(&path).first().map(Vec::as_slice), Some(&b"prod"[..]));
            assert!(!path.contains(&0) || path != outgoing.path().as_bytes());
            path = percent_decode(&path).collect();
        }
    }
    if let Some(Ok(canonical)) = target.query().map(canonical_query) {
        assert_eq!(canonical_query(&canonical).as_deref(), Ok(canonical.as_str()));
    }
});
