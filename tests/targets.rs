//! Properties of request-targets and signatures, over generated nasty ones: what is matched is what is signed is what is
//! on the wire, and nothing leaves its base path.
//!
//! Signatures are judged twice: by the stand-in's verifier, which shares no code with any signer, and by hand over
//! [`canonical_request`]. The seeds are fixed, so a failure comes back; another seed may be set below to look further.

#![cfg(test)]

use std::cell::Cell;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_lc_rs::hmac;
use aws_smithy_runtime_api::client::identity::Identity;
use countersign::auth::canonical::{Added, canonical_request};
use countersign::auth::error::AuthError;
use countersign::auth::request::Unsigned;
use countersign::auth::sigv4::{Scope, authorize};
use countersign::auth::spec::PayloadSigning;
use countersign::message::body::Sha256Hex;
use countersign::message::fields::{CallerIdentity, strip_request};
use countersign::message::target::{Target, TargetError, canonical_query};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use standin::sigv4::{Presented, Rules, verify};
use standin::{AccessKey, AccessKeys};

const CASES: u32 = 100_000;
const SEED: u64 = 0x5eed;
const AUTHORITY: &str = "abc123.execute-api.eu-west-1.amazonaws.com";
const REGION: &str = "eu-west-1";
const SERVICE: &str = "execute-api";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// Runs `property` on so many cases. What fails is shrunk and told with the seed.
fn check<S: Strategy>(cases: u32, strategy: S, property: impl Fn(&S::Value) -> Result<(), TestCaseError>)
where
    S::Value: Debug,
{
    let config = Config { cases, rng_seed: RngSeed::Fixed(SEED), failure_persistence: None, ..Config::default() };
    if let Err(failure) = TestRunner::new(config).run(&strategy, |case| property(&case)) {
        panic!("{failure}\nwith seed {SEED:#x}");
    }
}

/// Pieces of paths that somebody once read in two ways.
#[rustfmt::skip]
const NASTY: &[&str] = &[
    ".", "..", "...", "%2e", "%2E", "%252e", "%25%32%65", "%2f", "%2F", "%252f", "%5c", "%5C", "%255c", "\\", ";",
    "..;", ";x=1", "%3b", "%00", "%0a", "%0d%0a", "%250d%250a", "%", "%2", "%zz", "%ff", "%c0%ae", "//", "///",
    "//evil.test", "@evil.test", ":1@evil.test", ".evil.test", "%40evil.test", "?", "#f", "%23f", "\u{e9}",
    "\u{4e2d}", "\t", " ", "\u{7f}", "<", ">", "\"", "`", "https://evil.test/", "%uff0e", "\u{ff0e}",
];
/// Pieces that may pass, and that signers encode differently.
#[rustfmt::skip]
const ODD: &[&str] = &[
    "a", "B", "7", "orders", "v1", "/", "/", "/", "/", "-", "_", "~", "+", "$", "$default", "!", "'", "(", ")", "*",
    ",", "=", "&", ":", "@", "|", "^", "{", "}", "[", "]", "%20", "%25", "%2B", "%2b", "%40", "%41", "%7E", "%7e",
    "%C3%A9", "%c3%a9", "%E3%81%82", "%F0%9F%98%80", "%2520", "%253D", "..a", "a..", ".a", "a.", ";a", "//",
];
const PREFIXES: &[&str] = &["", "/orders", "/orders/new"];
const BASES: &[&str] = &["", "/prod", "/a/b", "/$default"];

fn path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![12 => select(ODD), 1 => select(NASTY)];
    let escape = any::<u8>().prop_map(|byte| format!("%{byte:02x}"));
    let part = prop_oneof![8 => piece.prop_map(ToOwned::to_owned), 1 => escape];
    (select(PREFIXES), prop::bool::weighted(0.9), prop::collection::vec(part, 0..10))
        .prop_map(|(prefix, slash, parts)| format!("{prefix}{}{}", if slash { "/" } else { "" }, parts.concat()))
}

#[rustfmt::skip]
const QUERY: &[&str] = &[
    "a", "b", "a=", "=", "=", "&", "&", "&", "&&", "+", "%20", "%2B", "%2b", "%26", "%3D", "%25", "%2525", "%7E", "~",
    "-", ".", "_", "'", "(", ")", "*", "!", "/", "/../", "?", ";", ":", "@", "[", "]", "{", "|", "$", ",", "%C3%A9",
    "%c3%a9", "%E3%81%82", "%F0%9F%98%80", "%00", "%0d%0a", "A", "Z", "z", "0", "q=", "x-amz-", "foo=1", "x-amz",
];
#[rustfmt::skip]
const NASTY_QUERY: &[&str] = &[
    "%ff", "%c3", "%ed%a0%80", "X-Amz-Signature=1", "x%2damz-date=", "X%2DAMZ%2D", "&x-amz-security-token", "%",
    "%zz", "\u{e9}", "<", "\"", "#", " ",
];

fn query() -> impl Strategy<Value = Option<String>> {
    let escape = (0x20_u8..0x7f).prop_map(|byte| format!("%{byte:02X}"));
    let nasty = prop_oneof![60 => select(QUERY), 1 => select(NASTY_QUERY)];
    let part = prop_oneof![8 => nasty.prop_map(ToOwned::to_owned), 1 => escape];
    prop::option::weighted(0.8, prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat()))
}

/// A target as a client sends it, and where its route leads.
fn target() -> impl Strategy<Value = (String, &'static str)> {
    (path(), query(), select(BASES)).prop_map(|(path, query, base)| {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        (format!("{path}{query}"), base)
    })
}

/// What hyper and then we accept.
fn accepted(text: &str) -> Option<Target> {
    Target::parse(&PathAndQuery::try_from(text).ok()?).ok()
}

/// The longest prefix of whole segments, as the table finds it.
fn route_of(target: &Target) -> &'static str {
    let takes = |prefix: &&&str| {
        target.path().strip_prefix(**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    PREFIXES.iter().filter(takes).max_by_key(|prefix| prefix.len()).copied().unwrap_or_default()
}

/// Undoes one round of percent-encoding, written here so that it is not the code under test.
fn decode(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let escape = match text.get(at..at + 3) {
            Some([b'%', high, low]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        decoded.push(escape.map_or(text[at], |(high, low)| high << 4 | low));
        at += if escape.is_some() { 3 } else { 1 };
    }
    decoded
}

/// The segments that a careless server ends up with; `None` if it climbs out of `base` on the way.
fn resolve(path: &[u8], base: &[&[u8]]) -> Option<()> {
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment.split(|byte| *byte == b';').next()?;
        match name {
            b"" | b"." => {}
            b".." => {
                segments.pop();
                if segments.len() < base.len() {
                    return None;
                }
            }
            _ => segments.push(segment),
        }
    }
    segments.starts_with(base).then_some(())
}

#[test]
fn an_accepted_path_goes_out_byte_for_byte_and_never_leaves_its_base() {
    let (passed, doubled) = (Cell::new(0), Cell::new(0));
    check(CASES, target(), |(text, base)| {
        let Some(target) = accepted(text) else { return Ok(()) };
        let strip = route_of(&target);
        let rest = target.path().strip_prefix(strip).unwrap();
        let rebased = match target.rebase(strip, base, target.query()) {
            Ok(rebased) => rebased,
            Err(error) => {
                // The one reason: without its prefix the rest would read as a host name.
                prop_assert_eq!(error, TargetError::LeadingDoubleSlash);
                prop_assert!(base.is_empty() && rest.starts_with("//"));
                doubled.set(doubled.get() + 1);
                return Ok(());
            }
        };
        passed.set(passed.get() + 1);

        let expected = format!("{base}{rest}");
        prop_assert_eq!(rebased.path(), if expected.is_empty() { "/" } else { &expected });
        prop_assert_eq!(rebased.query(), target.query());

        let base_segments: Vec<&[u8]> = base.as_bytes().split(|byte| *byte == b'/').skip(1).collect();
        let mut reading = rebased.path().as_bytes().to_vec();
        for decodings in 0..3 {
            prop_assert!(resolve(&reading, &base_segments).is_some(), "left {base} after {decodings} decodings");
            reading = decode(&reading);
        }

        let uri: Uri = format!("https://{AUTHORITY}{rebased}").parse().unwrap();
        prop_assert_eq!(uri.authority().map(Authority::as_str), Some(AUTHORITY));
        prop_assert_eq!(uri.path_and_query(), Some(&rebased));
        // As a browser or a careless server reads it: alone, and as a reference.
        let alone = reqwest::Url::parse(&format!("https://{AUTHORITY}{rebased}")).unwrap();
        let referred = reqwest::Url::parse(&format!("https://{AUTHORITY}/")).unwrap().join(rebased.as_str()).unwrap();
        for url in [&alone, &referred] {
            prop_assert_eq!(url.host_str(), Some(AUTHORITY));
            prop_assert_eq!((url.port(), url.username(), url.fragment()), (None, "", None));
            let behind = url.path().strip_prefix(base);
            prop_assert!(behind.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')), "{url}");
        }
        Ok(())
    });
    assert!(passed.get() > CASES / 5, "only {} of {CASES} were accepted", passed.get());
    assert!(doubled.get() > 0, "no case had a double slash behind its prefix");
}

/// The pairs of a query as API Gateway reads it: `+` is a space, empty pairs are none.
fn pairs(query: &str) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let read = |text: &str| decode(text.replace('+', " ").as_bytes());
    let read_pair = |pair: &str| match pair.split_once('=') {
        Some((name, value)) => (read(name), Some(read(value))),
        None => (read(pair), None),
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(read_pair).collect()
}

#[test]
fn a_canonical_query_means_the_same_and_is_its_own_canonical_form() {
    let passed = Cell::new(0);
    check(CASES, query(), |query| {
        let text = format!("/?{}", query.as_deref().unwrap_or_default());
        let Some(target) = accepted(&text) else { return Ok(()) };
        let query = target.query().unwrap_or_default();
        let before = pairs(query);
        match canonical_query(query) {
            Ok(canonical) => {
                passed.set(passed.get() + 1);
                prop_assert_eq!(pairs(&canonical), before);
                let again = canonical_query(&canonical);
                prop_assert_eq!(again.as_deref(), Ok(canonical.as_str()));
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%&=".contains(&byte);
                prop_assert!(canonical.bytes().all(plain), "{canonical}");
                prop_assert!(!canonical.contains("&&") && !canonical.starts_with('&') && !canonical.ends_with('&'));
            }
            Err(TargetError::QueryNotUtf8) => {
                let all = before.iter().flat_map(|(name, value)| [Some(name), value.as_ref()]).flatten();
                prop_assert!(all.clone().any(|text| std::str::from_utf8(text).is_err()));
            }
            Err(error) => {
                prop_assert_eq!(error, TargetError::PresignedQuery);
                let names = before.iter().map(|(name, _)| name.to_ascii_lowercase());
                prop_assert!(names.clone().any(|name| name.starts_with(b"x-amz-")));
            }
        }
        Ok(())
    });
    assert!(passed.get() > CASES / 2, "only {} of {CASES} were accepted", passed.get());
}

/// A request to sign, and the parts of its world that do not change.
struct Signer {
    identity: Identity,
    session_token: Option<&'static str>,
    keys: AccessKeys,
    scope: Scope,
    now: SystemTime,
    /// The key of the scope (so that a case costs one HMAC and not five).
    key: hmac::Key,
}

impl Signer {
    fn new(session_token: Option<&'static str>, payload: PayloadSigning) -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_mins(24_015_636);
        let id = "AKIDEXAMPLE";
        let token = session_token.map(ToOwned::to_owned);
        let identity = Identity::from(Credentials::new(id, SECRET, token.clone(), None, "test"));
        let keys = AccessKeys::new();
        keys.add(AccessKey {
            id: id.into(),
            secret: SECRET.into(),
            session_token: token,
            principal: "arn:aws:iam::123456789012:user/example".into(),
            expires: None,
        });
        let scope = Scope { region: REGION.into(), service: SERVICE.into(), payload };
        let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let day = mac(format!("AWS4{SECRET}").as_bytes(), "20150830");
        let service = mac(mac(day.as_ref(), REGION).as_ref(), SERVICE);
        let key = hmac::Key::new(hmac::HMAC_SHA256, mac(service.as_ref(), "aws4_request").as_ref());
        Self { identity, session_token, keys, scope, now, key }
    }

    /// Signs, then judges by hand and, where API Gateway would take it, by the stand-in's verifier.
    fn verify(&self, request: &Unsigned<'_>) -> Result<(), TestCaseError> {
        let grant = authorize(request, &self.identity, &self.scope, self.now);
        let grant = grant.map_err(|error| TestCaseError::fail(format!("not signed: {error:?}")))?;
        let mut sent = request.headers.clone();
        for (name, value) in grant {
            sent.insert(name, value);
        }
        let authorization = sent.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();

        let added = Added { date: "20150830T123600Z", security_token: self.session_token };
        let canonical = canonical_request(request, &self.scope, &added).unwrap();
        let hash = Sha256Hex::of(canonical.as_bytes());
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{}\n20150830/{REGION}/{SERVICE}/aws4_request\n{}", added.date, hash.as_str());
        let tag = hmac::sign(&self.key, to_sign.as_bytes());
        let signature = tag.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        prop_assert!(
            authorization.ends_with(&format!("Signature={signature}")),
            "by hand {signature} over\n{canonical}\nbut {authorization}"
        );

        if self.scope.payload == PayloadSigning::Unsigned {
            prop_assert_eq!(sent.get("x-amz-content-sha256").unwrap(), "UNSIGNED-PAYLOAD");
            return Ok(());
        }
        let mut headers = vec![("host".to_owned(), request.authority.as_str().as_bytes().to_vec())];
        headers.extend(sent.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())));
        let of_nothing = Sha256Hex::of_nothing();
        let presented = Presented {
            method: request.method.as_str(),
            target: request.path_and_query.as_str(),
            authority: None,
            headers: &headers,
            payload: request.payload.unwrap_or(&of_nothing).as_str(),
        };
        let rules = Rules { region: REGION, service: SERVICE, window: Duration::from_mins(5) };
        let verdict = verify(&presented, &rules, &self.keys, self.now);
        prop_assert!(verdict.is_ok(), "{verdict:?}\nours:\n{canonical}");
        Ok(())
    }
}

#[test]
fn what_is_matched_is_what_is_signed_is_what_is_on_the_wire() {
    let signers = [
        Signer::new(None, PayloadSigning::Signed),
        Signer::new(Some("IQoJb3JpZ2luX2VjE+/=="), PayloadSigning::Signed),
        Signer::new(Some("IQoJb3JpZ2luX2VjE+/=="), PayloadSigning::Unsigned),
    ];
    let methods = [Method::GET, Method::POST, Method::DELETE, Method::HEAD];
    let authority = Authority::from_static(AUTHORITY);
    let headers = HeaderMap::from_iter([
        (http::header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8")),
        (HeaderName::from_static("x-amz-meta"), HeaderValue::from_static("a, b")),
    ]);
    let signed = Cell::new(0);
    let body = Sha256Hex::of(b"{\"a\":1}");
    check(CASES, (target(), 0..3_usize, 0..4_usize), |((text, base), signer, method)| {
        let Some(target) = accepted(text) else { return Ok(()) };
        let Ok(query) = target.query().map(canonical_query).transpose() else { return Ok(()) };
        let Ok(path_and_query) = target.rebase(route_of(&target), base, query.as_deref()) else { return Ok(()) };
        signed.set(signed.get() + 1);
        signers[*signer].verify(&Unsigned {
            method: &methods[*method],
            authority: &authority,
            path_and_query: &path_and_query,
            headers: &headers,
            payload: (*method == 1).then_some(&body),
        })
    });
    assert!(signed.get() > CASES / 6, "only {} of {CASES} were signed", signed.get());
}

#[rustfmt::skip]
const NAMES: &[&str] = &[
    "content-type", "content-type", "x-amz-meta", "x-amz-meta", "x-amz-meta-b", "x-amz-target", "x-amz-user-agent",
    "x-amz-", "x-amz-invocation-type", "x-amzn-trace-id", "x-amz-date", "x-amz-security-token",
    "x-amz-content-sha256", "x-amz-signature", "x_amz_date", "x_amz_meta", "authorization", "authorization_",
    "connection", "keep-alive", "te", "trailer", "transfer-encoding", "content-length", "expect", "upgrade",
    "proxy-authorization", "host", "cookie", "user-agent", "accept", "accept-encoding", "traceparent", "baggage",
    "x-forwarded-for", "via", "x-api-key", "date", "range", "content-md5",
];
#[rustfmt::skip]
const VALUES: &[&[u8]] = &[
    b"", b"a", b"a,b", b"a, b", b"a b", b"application/json", b"application/json; charset=utf-8",
    b"text/plain;charset=\"x\"", b"close, x-amz-meta", b"x-amz-date, authorization, host", b"trailers", b"chunked",
    b"100-continue", b"=", b"'a'", b"\"a  b\"", b" a", b"a ", b" ", b"a  b", b"a\tb", b"\ta", b"a\t", b"\xc3\xa9",
    b"\xff", b"a\xa0", b"a:b;c", b"a\\b", b"%20+", b"~!@#$%^&*()", b"5", b"AWS4-HMAC-SHA256 Credential=x",
    b"UNSIGNED-PAYLOAD", b"20150830T123600Z",
];

fn fields() -> impl Strategy<Value = Vec<(&'static str, &'static [u8])>> {
    let odd = select(VALUES);
    // Mostly what a field may hold, or hardly any set of ten would be signable.
    let value = prop_oneof![1 => odd, 2 => select(&VALUES[..16])];
    prop::collection::vec((select(NAMES), value), 0..12)
}

/// Whether any two signers read it alike.
fn is_plain(value: &[u8]) -> bool {
    let graphic_or_space = value.iter().all(|byte| (b' '..0x7f).contains(byte));
    let odd_space = value.windows(2).any(|pair| pair == b"  ") || value.starts_with(b" ") || value.ends_with(b" ");
    graphic_or_space && !odd_space
}

#[test]
fn every_signed_set_of_fields_verifies_and_only_unreadable_ones_are_refused() {
    let signers = [
        Signer::new(None, PayloadSigning::Signed),
        Signer::new(Some("IQoJb3JpZ2luX2VjE+/=="), PayloadSigning::Signed),
        Signer::new(None, PayloadSigning::Unsigned),
    ];
    let authorities = [AUTHORITY, "api.example:8443", "API.Example", "[::1]:9000"].map(Authority::from_static);
    let path_and_query = PathAndQuery::from_static("/prod/orders?b=2&a=%20");
    let (signed, refused) = (Cell::new(0), Cell::new(0));
    check(CASES, (fields(), 0..3_usize, 0..4_usize), |(fields, signer, authority)| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        strip_request(&mut headers, CallerIdentity::Replaced, |_| {});
        let request = Unsigned {
            method: &Method::PUT,
            authority: &authorities[*authority],
            path_and_query: &path_and_query,
            headers: &headers,
            payload: None,
        };
        let mut must_be_signed = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-amz-"));
        if must_be_signed.all(|(_, value)| is_plain(value.as_bytes())) {
            signed.set(signed.get() + 1);
            return signers[*signer].verify(&request);
        }
        refused.set(refused.get() + 1);
        let outcome = authorize(&request, &signers[*signer].identity, &signers[*signer].scope, signers[*signer].now);
        prop_assert!(matches!(outcome, Err(AuthError::Unsignable(_))), "{outcome:?}");
        Ok(())
    });
    assert!(
        signed.get() > CASES / 2 && refused.get() > CASES / 50,
        "{} signed, {} refused",
        signed.get(),
        refused.get()
    );
}

/// Signs the same request with the signer of requests under way and with AWS's own.
fn compare_signers(cases: u32) {
    let token = "IQoJb3JpZ2luX2VjE+/==";
    let worlds = [
        Signer::new(None, PayloadSigning::Signed),
        Signer::new(Some(token), PayloadSigning::Signed),
        Signer::new(Some(token), PayloadSigning::Unsigned),
    ];
    // One for all cases, as in the proxy: what it keeps of one request must not show in the next.
    let signers = [0, 1, 2].map(|world: usize| countersign::auth::signer::Signer::new(worlds[world].scope.clone()));
    let authorities = [AUTHORITY, "api.example:8443", "[::1]:9000"].map(Authority::from_static);
    let methods = [Method::GET, Method::POST, Method::DELETE, Method::from_bytes(b"PURGE").unwrap()];
    let hashes = [None, Some(Sha256Hex::of_nothing()), Some(Sha256Hex::of(b"body"))];
    let signed = Cell::new(0);
    let what = (target(), fields(), any::<bool>(), any::<bool>(), 0..4_usize);
    let whom = (0..3_usize, 0..3_usize, 0..3_usize, 0..4_000_000_000_u64, 0..3_u64);
    check(cases, (what, whom), |(what, whom)| {
        let ((text, _), fields, canonical, stripped, method) = what;
        let (world, authority, hash, time, generation) = *whom;
        let Ok(mut target) = PathAndQuery::try_from(text.as_str()) else { return Ok(()) };
        if *canonical {
            // As it goes out; the others are what may never come.
            let Some(query) = target.query().map(canonical_query).transpose().ok() else { return Ok(()) };
            let query = query.map(|query| format!("?{query}")).unwrap_or_default();
            target = PathAndQuery::try_from(format!("{}{query}", target.path())).unwrap();
        }
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        if *stripped {
            strip_request(&mut headers, CallerIdentity::Replaced, |_| {});
        }
        let request = Unsigned {
            method: &methods[*method],
            authority: &authorities[authority],
            path_and_query: &target,
            headers: &headers,
            payload: hashes[hash].as_ref(),
        };
        let identity = &worlds[world].identity;
        // Days that come again, and others.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(if time % 2 == 0 { time } else { time % 200_000 });
        let theirs = authorize(&request, identity, &worlds[world].scope, now);
        let ours = signers[world].authorize(&request, identity, generation, now);
        match (ours, theirs) {
            (Ok(mut ours), Ok(mut theirs)) => {
                for fields in [&mut ours, &mut theirs] {
                    fields.sort_by_key(|(name, _)| name.to_string());
                }
                prop_assert_eq!(&ours, &theirs);
                let marks = |fields: &[(HeaderName, HeaderValue)]| -> Vec<bool> {
                    fields.iter().map(|(_, value)| value.is_sensitive()).collect()
                };
                prop_assert_eq!(marks(&ours), marks(&theirs));
                signed.set(signed.get() + 1);
            }
            (Err(AuthError::Unsignable(_)), Err(AuthError::Unsignable(_)))
            | (Err(AuthError::Signing(_)), Err(AuthError::Signing(_))) => {}
            (ours, theirs) => prop_assert!(false, "{ours:?} and {theirs:?}"),
        }
        Ok(())
    });
    assert!(signed.get() > cases / 3, "only {} of {cases} were signed", signed.get());
}

#[test]
fn requests_are_signed_as_aws_sigv4_signs_them() {
    compare_signers(20_000);
}

#[test]
#[ignore = "minutes: cargo test --release --test targets -- --ignored"]
fn a_million_requests_are_signed_as_aws_sigv4_signs_them() {
    compare_signers(1_000_000);
}
