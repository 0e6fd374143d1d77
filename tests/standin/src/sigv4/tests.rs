//! The verifier against AWS's own test suite, and against tampering.

use super::*;

const TOKEN: &str = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
const RULES: Rules<'_> = Rules { region: "us-east-1", service: "service", window: Duration::from_mins(5) };
const VANILLA: &str = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";

struct Vector {
    method: &'static str,
    target: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    signature: &'static str,
}

const PLAIN: Vector = Vector { method: "GET", target: "/", headers: &[], body: "", signature: VANILLA };

/// aws-signing-test-suite, v4, header-signed-request.txt of the directory named.
const VECTORS: [(&str, Vector); 10] = [
    ("get-vanilla", PLAIN),
    ("get-relative-normalized", Vector { target: "/example/..", ..PLAIN }),
    (
        "get-vanilla-utf8-query",
        Vector {
            target: "/?\u{1234}=bar",
            signature: "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
            ..PLAIN
        },
    ),
    (
        "get-vanilla-with-session-token",
        Vector {
            headers: &[("x-amz-security-token", TOKEN)],
            signature: "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
            ..PLAIN
        },
    ),
    (
        "post-x-www-form-urlencoded-parameters",
        Vector {
            method: "POST",
            headers: &[
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                ("content-length", "13"),
                ("x-amz-content-sha256", "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"),
            ],
            body: "Param1=value1",
            signature: "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422",
            ..PLAIN
        },
    ),
    (
        "get-space-normalized",
        Vector {
            target: "/example space/",
            signature: "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
            ..PLAIN
        },
    ),
    (
        "get-slashes-normalized",
        Vector {
            target: "//example//",
            signature: "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84",
            ..PLAIN
        },
    ),
    (
        "get-header-value-trim",
        Vector {
            headers: &[("my-header1", " value1"), ("my-header2", " \"a   b   c\"")],
            signature: "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            ..PLAIN
        },
    ),
    (
        "get-header-key-duplicate",
        Vector {
            headers: &[("my-header1", "value2"), ("my-header1", "value2"), ("my-header1", "value1")],
            signature: "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
            ..PLAIN
        },
    ),
    (
        "post-vanilla-query",
        Vector {
            method: "POST",
            target: "/?Param1=value1",
            signature: "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
            ..PLAIN
        },
    ),
];

fn now() -> SystemTime {
    parse_iso_basic("20150830T123600Z").unwrap()
}

fn example_key(session_token: Option<&str>) -> AccessKey {
    AccessKey {
        id: "AKIDEXAMPLE".to_owned(),
        secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
        session_token: session_token.map(ToOwned::to_owned),
        principal: "arn:aws:iam::123456789012:user/example".to_owned(),
        expires: None,
    }
}

fn keys(key: AccessKey) -> AccessKeys {
    let keys = AccessKeys::new();
    keys.add(key);
    keys
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
}

/// The fields of get-vanilla, which tests then change.
fn vanilla() -> Vec<(String, Vec<u8>)> {
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
         SignedHeaders=host;x-amz-date, Signature={VANILLA}"
    );
    owned(&[("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z"), ("authorization", &authorization)])
}

fn judge(headers: &[(String, Vec<u8>)], target: &str, body: &str, now: SystemTime) -> Result<AccessKey, Refusal> {
    let payload = sha256_hex(body.as_bytes());
    let request = Presented { method: "GET", target, authority: None, headers, payload: &payload };
    verify(&request, &RULES, &keys(example_key(None)), now)
}

fn with(name: &str, value: &str) -> Vec<(String, Vec<u8>)> {
    let mut headers = vanilla();
    headers.retain(|(candidate, _)| candidate != name);
    headers.extend(owned(&[(name, value)]));
    headers
}

#[test]
fn the_official_vectors_verify() {
    for (name, vector) in VECTORS {
        let mut headers = owned(&[("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")]);
        headers.extend(owned(vector.headers));
        let mut signed: Vec<String> = headers.iter().map(|(name, _)| name.clone()).collect();
        signed.sort();
        signed.dedup();
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders={}, Signature={}",
            signed.join(";"),
            vector.signature,
        );
        headers.extend(owned(&[("authorization", &authorization)]));
        let token = vector.headers.iter().find(|(name, _)| *name == "x-amz-security-token").map(|(_, token)| *token);
        let payload = sha256_hex(vector.body.as_bytes());
        let request = Presented {
            method: vector.method,
            target: vector.target,
            authority: None,
            headers: &headers,
            payload: &payload,
        };
        let verdict = verify(&request, &RULES, &keys(example_key(token)), now());
        assert_eq!(verdict, Ok(example_key(token)), "{name}");
    }
}

#[test]
fn what_was_changed_after_signing_is_refused_with_the_canonical_request_of_what_arrived() {
    let Err(Refusal::Mismatch { canonical, string_to_sign }) = judge(&vanilla(), "/other?b&a=1", "", now()) else {
        panic!("another path was accepted");
    };
    let empty = sha256_hex(b"");
    assert_eq!(
        canonical,
        format!(
            "GET\n/other\na=1&b=\nhost:example.amazonaws.com\nx-amz-date:20150830T123600Z\n\nhost;x-amz-date\n{empty}"
        )
    );
    assert!(
        string_to_sign.starts_with("AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/service/aws4_request\n")
    );

    let tampered = [
        judge(&vanilla(), "/", "a body", now()),
        judge(&with("host", "other.amazonaws.com"), "/", "", now()),
        judge(&with("x-amz-date", "20150830T123601Z"), "/", "", now()),
    ];
    for verdict in tampered {
        assert!(matches!(verdict, Err(Refusal::Mismatch { .. })), "{verdict:?}");
    }
}

#[test]
fn the_authority_of_http_2_stands_for_host() {
    let headers: Vec<_> = vanilla().into_iter().filter(|(name, _)| name != "host").collect();
    let payload = sha256_hex(b"");
    let request = Presented {
        method: "GET",
        target: "/",
        authority: Some("example.amazonaws.com"),
        headers: &headers,
        payload: &payload,
    };
    assert!(verify(&request, &RULES, &keys(example_key(None)), now()).is_ok());
}

#[test]
fn every_x_amz_field_present_must_be_signed() {
    for name in ["x-amz-meta", "x-amz-content-sha256"] {
        let verdict = judge(&with(name, &sha256_hex(b"")), "/", "", now());
        let expected = format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.");
        assert_eq!(verdict, Err(Refusal::Unacceptable(expected)));
    }
    assert!(judge(&with("x-other", "unsigned"), "/", "", now()).is_ok());
}

#[test]
fn an_unsigned_payload_is_not_accepted_even_when_the_claim_is_signed() {
    let headers = owned(&[("host", "example.amazonaws.com"), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]);
    let request =
        Presented { method: "GET", target: "/", authority: None, headers: &headers, payload: "UNSIGNED-PAYLOAD" };
    let added = sign(&request, &RULES, &example_key(None), now());
    let headers = [headers, added].concat();
    assert!(matches!(judge(&headers, "/", "", now()), Err(Refusal::Mismatch { .. })));
}

#[test]
fn a_signed_hop_by_hop_field_does_not_verify() {
    let empty = sha256_hex(b"");
    let canonical = format!(
        "GET\n/\n\nhost:example.amazonaws.com\nte:trailers\nx-amz-date:20150830T123600Z\n\nhost;te;x-amz-date\n{empty}"
    );
    let date = "20150830T123600Z";
    let signature = signature(&example_key(None).secret, date, &RULES, &string_to_sign(&canonical, date, &RULES));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
         SignedHeaders=host;te;x-amz-date, Signature={signature}"
    );
    let mut headers = with("authorization", &authorization);
    headers.extend(owned(&[("te", "trailers")]));
    assert!(matches!(judge(&headers, "/", "", now()), Err(Refusal::Mismatch { .. })));
}

#[test]
fn the_clock_may_be_five_minutes_off_and_no_more() {
    let second = Duration::from_secs(1);
    assert!(judge(&vanilla(), "/", "", now() + RULES.window).is_ok());
    assert!(judge(&vanilla(), "/", "", now() - RULES.window).is_ok());
    assert_eq!(
        judge(&vanilla(), "/", "", now() + RULES.window + second),
        Err(Refusal::Unacceptable(
            "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T124101Z - 5 min.)"
                .to_owned()
        ))
    );
    assert_eq!(
        judge(&vanilla(), "/", "", now() - RULES.window - second),
        Err(Refusal::Unacceptable(
            "Signature not yet current: 20150830T123600Z is still later than 20150830T123559Z (20150830T123059Z + 5 min.)"
                .to_owned()
        ))
    );
}

#[test]
fn the_scope_must_be_the_services_own() {
    let original = String::from_utf8(vanilla().pop().unwrap().1).unwrap();
    for (from, to, words) in [
        ("us-east-1", "eu-west-1", "Credential should be scoped to a valid region, not 'eu-west-1'. "),
        ("/service/", "/s3/", "Credential should be scoped to correct service: 'service'. "),
        (
            "/20150830/",
            "/20150831/",
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: \
             '20150831' != '20150830', from '20150830T123600Z'.",
        ),
        ("aws4_request", "aws4", "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws4'."),
    ] {
        let headers = with("authorization", &original.replace(from, to));
        assert_eq!(judge(&headers, "/", "", now()), Err(Refusal::Unacceptable(words.to_owned())));
    }
}

#[test]
fn another_scheme_is_incomplete_and_none_is_missing() {
    for value in ["Bearer abc", "abc", "AWS4-HMAC-SHA256 Credential", "AWS4-HMAC-SHA256 Credential=a/b, Signature=c"] {
        let verdict = judge(&with("authorization", value), "/", "", now());
        assert!(matches!(verdict, Err(Refusal::Incomplete(_))), "{value}: {verdict:?}");
    }
    let mut headers = vanilla();
    headers.pop();
    assert_eq!(judge(&headers, "/", "", now()), Err(Refusal::Missing));
}

#[test]
fn a_key_must_exist_with_this_session_token_and_still_be_valid() {
    let judge = |key: AccessKey, headers: &[(String, Vec<u8>)]| {
        let payload = sha256_hex(b"");
        let request = Presented { method: "GET", target: "/", authority: None, headers, payload: &payload };
        verify(&request, &RULES, &keys(key), now())
    };
    let other = AccessKey { id: "AKIDOTHER".to_owned(), ..example_key(None) };
    assert_eq!(judge(other, &vanilla()), Err(Refusal::UnknownKey));
    assert_eq!(judge(example_key(Some(TOKEN)), &vanilla()), Err(Refusal::UnknownKey));
    assert_eq!(judge(example_key(None), &with("x-amz-security-token", TOKEN)), Err(Refusal::UnknownKey));
    let over = AccessKey { expires: Some(now()), ..example_key(None) };
    assert_eq!(judge(over, &vanilla()), Err(Refusal::ExpiredKey));
}
