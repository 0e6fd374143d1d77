use std::time::Duration;

use super::unauthorized::parameter;
use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn token(claims: Claims) -> Auth {
    Auth::Token { claims: Some(claims), header: "authorization".to_owned(), scheme: "Bearer".to_owned() }
}

fn claims(token_use: &str) -> Claims {
    Claims {
        token_use: Some(token_use.to_owned()),
        issuer: Some("https://cognito-idp.eu-west-1.amazonaws.com/p".to_owned()),
        expires: Some(NOW + Duration::from_hours(1)),
        ..Claims::default()
    }
}

fn signed(key_id: &str, session_token: Shown) -> Auth {
    Auth::Signature {
        region: "eu-west-1".to_owned(),
        service: "execute-api".to_owned(),
        source: "AWS keys given in the config".to_owned(),
        key_id: Some(key_id.to_owned()),
        session_token,
    }
}

fn sent(auth: &Auth) -> Sent<'_> {
    Sent {
        method: "GET",
        path: "/prod/orders",
        base: Base::Path,
        host: "abc.execute-api.eu-west-1.amazonaws.com",
        auth,
        api_key: Shown::No,
        client_certificate: Shown::No,
        skew: None,
        now: NOW,
        canonical: None,
    }
}

fn answer<'a>(status: u16, error_type: &'a str, message: &str) -> (Answer<'a>, String) {
    let body = serde_json::json!({ "message": message }).to_string();
    let error_type = Some(error_type).filter(|text| !text.is_empty());
    (Answer { status, error_type, challenge: None, api: Api::Unknown, body: None, length: None }, body)
}

fn codes(status: u16, error_type: &str, message: &str, sent: &Sent<'_>) -> Vec<&'static str> {
    let (answer, body) = answer(status, error_type, message);
    let diagnosis = diagnose(&Answer { body: Some(body.as_bytes()), ..answer }, sent);
    let hint = diagnosis.as_ref().map(|diagnosis| diagnosis.hint(super::super::Evidence::Shown)).unwrap_or_default();
    assert!(hint.len() <= 640 && hint.is_ascii(), "{hint}");
    diagnosis.iter().flat_map(Diagnosis::findings).map(|finding| finding.cause.code()).collect()
}

#[test]
fn a_plain_forbidden_leaves_open_what_it_leaves_open() {
    let forbidden = |sent: &Sent<'_>, kind: &str| codes(403, kind, "Forbidden", sent);
    let none = Auth::None;
    let rest = forbidden(&sent(&none), "ForbiddenException");
    assert_eq!(rest, ["api-key-missing", "web-acl", "default-endpoint-disabled", "private-api"]);
    let with_key = forbidden(&Sent { api_key: Shown::Yes, ..sent(&none) }, "ForbiddenException");
    assert_eq!(with_key[0], "api-key-refused");
    let custom = Sent { host: "api.example", ..sent(&none) };
    let at_custom = forbidden(&custom, "ForbiddenException");
    assert_eq!(at_custom, ["api-key-missing", "domain-mapping", "client-certificate-missing", "web-acl"]);
    let shown = forbidden(&Sent { client_certificate: Shown::Yes, ..custom }, "ForbiddenException");
    assert!(shown.contains(&"client-certificate-refused"));
    let private = Sent { host: "abc-vpce-1.execute-api.eu-west-1.amazonaws.com", ..sent(&none) };
    assert_eq!(forbidden(&private, "ForbiddenException")[0], "private-api");
    let keys = signed("AKIA", Shown::No);
    assert_eq!(forbidden(&sent(&keys), "")[0], "http-api-denied");
    assert_eq!(forbidden(&sent(&keys), "").last(), Some(&"backend-answer"), "only the words are the gateway's");
    assert_eq!(forbidden(&sent(&token(claims("access"))), "")[0], "scope-missing");
}

#[test]
fn backends_own_answers_are_left_alone() {
    let none = Auth::None;
    for (status, body) in [
        (401, "{\"detail\":\"Unauthorized\"}"),
        (403, "{\"message\":\"Forbidden\",\"code\":7}"),
        (403, "no JSON"),
        (404, "{\"message\":\"order 7 not found\"}"),
        (500, "{\"message\":\"boom\"}"),
        (400, "{}"),
        (418, "{\"message\":\"Forbidden\"}"),
    ] {
        let answer = Answer {
            status,
            error_type: None,
            challenge: None,
            api: Api::Unknown,
            body: Some(body.as_bytes()),
            length: None,
        };
        assert_eq!(diagnose(&answer, &sent(&none)), None, "{status} {body}");
    }
}

#[test]
fn a_missing_path_and_a_missing_stage_are_told_apart_and_an_open_route_may_want_a_signature() {
    let kind = "MissingAuthenticationTokenException";
    let (none, keys) = (Auth::None, signed("AKIA", Shown::No));
    assert_eq!(codes(403, kind, "Missing Authentication Token", &sent(&none)), ["no-such-path", "auth-none"]);
    assert_eq!(codes(403, kind, "Missing Authentication Token", &sent(&keys)), ["no-such-path"]);
    let bare = Sent { base: Base::None, path: "/orders", ..sent(&keys) };
    assert_eq!(codes(403, kind, "", &bare), ["stage-missing", "no-such-path"]);
    let custom = Sent { host: "api.example", ..bare };
    assert_eq!(codes(403, kind, "", &custom), ["no-such-path"]);
}

#[test]
fn tokens_are_judged_by_what_they_say() {
    let unauthorized = |auth: &Auth| codes(401, "UnauthorizedException", "Unauthorized", &sent(auth));
    assert_eq!(unauthorized(&Auth::None), ["auth-none"]);
    assert_eq!(unauthorized(&signed("AKIA", Shown::No))[0], "signature-to-token-method");
    let access = unauthorized(&token(claims("access")));
    assert_eq!(access, ["id-token-wanted", "scope-missing", "foreign-issuer", "token-form"]);
    assert_eq!(unauthorized(&token(claims("id"))), ["access-token-wanted", "foreign-issuer", "token-form"]);
    assert_eq!(unauthorized(&token(Claims { expires: Some(NOW), ..claims("id") })), ["token-expired"]);
    let early = Claims { begins: Some(NOW + Duration::from_mins(9)), ..claims("id") };
    assert_eq!(unauthorized(&token(early)), ["token-not-yet-valid"]);
    let foreign = Claims { token_use: None, issuer: Some("https://issuer.example".to_owned()), ..claims("id") };
    assert_eq!(unauthorized(&token(foreign))[0], "foreign-issuer");
    let opaque = Auth::Token { claims: None, header: "authorization".to_owned(), scheme: String::new() };
    assert_eq!(unauthorized(&opaque)[0], "token-opaque");
    let late = token(claims("access"));
    let skewed = Sent { skew: Some(4_000), ..sent(&late) };
    let expired = codes(401, "UnauthorizedException", "The incoming token has expired", &skewed);
    assert_eq!(expired, ["token-expired", "clock-behind"]);
}

#[test]
fn a_challenge_says_more_than_the_status() {
    let auth = token(Claims { scope: Some("orders/read".to_owned()), ..claims("access") });
    let first = |status, challenge: &str| {
        let answer = Answer {
            status,
            error_type: None,
            challenge: Some(challenge),
            api: Api::Unknown,
            body: None,
            length: None,
        };
        diagnose(&answer, &sent(&auth)).unwrap().first().clone()
    };
    let invalid =
        |words: &str| first(401, &format!("Bearer scope=\"\" error=\"invalid_token\" error_description=\"{words}\""));
    for (words, code) in [
        ("the token has expired", "token-expired"),
        ("the audience is invalid", "audience"),
        ("invalid issuer", "foreign-issuer"),
        ("the token is not yet valid", "token-not-yet-valid"),
        ("signing key not found", "token-signature"),
        ("no", "token-refused"),
    ] {
        let finding = invalid(words);
        assert_eq!(finding.cause.code(), code);
        assert!(finding.evidence.unwrap().starts_with(&format!("\"{words}\"; token_use access")));
    }
    let finding = first(403, "Bearer scope=\"orders/write\" error=\"insufficient_scope\"");
    assert_eq!(finding.cause, Cause::ScopeMissing);
    assert_eq!(finding.evidence.unwrap(), "the API wants \"orders/write\", the token has \"orders/read\"");
    assert_eq!(first(401, "Bearer").cause, Cause::TokenRefused);
    assert_eq!(parameter("Bearer xscope=\"a\", scope=\"b\"", "scope"), Some("b"));
    assert_eq!(parameter("Bearer scope", "scope"), None);
}

#[test]
fn policies_are_told_apart_by_their_words() {
    let keys = signed("AKIA", Shown::No);
    let denied = |words: &str| {
        let message = format!(
            "User: arn:aws:iam::111111111111:user/a is not authorized to perform: execute-api:Invoke on resource: \
             arn:aws:execute-api:eu-west-1:{words}"
        );
        codes(403, "AccessDeniedException", &message, &sent(&keys))
    };
    assert_eq!(denied("111111111111:abc/prod/GET/ because no identity-based policy allows")[0], "invoke-not-allowed");
    assert_eq!(denied("********1111:abc/prod/GET/")[0], "invoke-not-allowed", "stars say too little");
    assert_eq!(denied("222222222222:abc/prod/GET/"), ["other-account", "invoke-not-allowed"]);
    assert_eq!(denied("111111111111:abc/ with an explicit deny in an identity-based policy"), ["explicit-deny"]);
    let resource = denied("111111111111:abc/ with an explicit deny in a resource-based policy");
    assert_eq!(resource, ["explicit-deny", "resource-policy-denies"]);
    let none = denied("222222222222:abc/ because no resource-based policy allows the execute-api:Invoke action");
    assert_eq!(none, ["resource-policy-denies", "other-account"]);
    let authorizer = "User is not authorized to access this resource with an explicit deny";
    assert_eq!(codes(403, "AccessDeniedException", authorizer, &sent(&keys)), ["authorizer-denied"]);
    assert_eq!(codes(403, "AccessDeniedException", "no s3:GetObject", &sent(&keys))[0], "backend-answer");
}

#[test]
fn keys_and_signatures() {
    let first = |auth: &Auth, kind: &str, message: &str| codes(403, kind, message, &sent(auth))[0];
    let (lasting, temporary) = (signed("AKIAEXAMPLE", Shown::No), signed("ASIAEXAMPLE", Shown::No));
    assert_eq!(first(&lasting, "UnrecognizedClientException", ""), "unknown-key");
    assert_eq!(first(&temporary, "UnrecognizedClientException:http://x", ""), "session-token-missing");
    let whole = signed("ASIAEXAMPLE", Shown::Yes);
    assert_eq!(codes(403, "UnrecognizedClientException", "", &sent(&whole)), ["unknown-key", "session-token-foreign"]);
    assert_eq!(first(&whole, "com.amazon#ExpiredTokenException", ""), "keys-expired");
    for (words, code) in [
        ("Signature expired: 20261121T080000Z is now earlier than", "clock-behind"),
        ("Signature not yet current: 20261121T080000Z is still later", "clock-ahead"),
        ("Credential should be scoped to a valid region, not 'us-east-1'.", "wrong-region"),
        ("Credential should be scoped to correct service: 'execute-api'.", "wrong-service"),
        ("Date in Credential scope does not match YYYYMMDD from ISO-8601", "scope-date"),
        ("The request signature we calculated does not match", "wrong-secret-key"),
    ] {
        assert_eq!(first(&lasting, "InvalidSignatureException", words), code);
    }
    let evidence = |sent: &Sent<'_>| {
        let (answer, body) = answer(403, "UnrecognizedClientException", "");
        let diagnosis = diagnose(&Answer { body: Some(body.as_bytes()), ..answer }, sent).unwrap();
        diagnosis.first().evidence.clone().unwrap()
    };
    assert_eq!(evidence(&sent(&lasting)), "key ...MPLE, AWS keys given in the config", "the end of the id alone");
}

#[test]
fn a_failure_whose_body_was_not_held_is_the_gateways_by_its_length_alone() {
    let none = Auth::None;
    let failed = |status, api, length| {
        let answer = Answer { status, error_type: None, challenge: None, api, body: None, length };
        let diagnosis = diagnose(&answer, &sent(&none));
        diagnosis.iter().flat_map(Diagnosis::findings).map(|finding| finding.cause.code()).collect::<Vec<_>>()
    };
    let unavailable = ["integration-unavailable", "integration-timeout", "backend-answer"];
    assert_eq!(failed(503, Api::Http, Some(33)), unavailable);
    assert_eq!(failed(500, Api::Http, Some(35)), ["integration-failed", "authorizer-failed", "backend-answer"]);
    for (api, length) in [(Api::Unknown, Some(33)), (Api::Http, Some(34)), (Api::Http, None), (Api::Rest, Some(33))] {
        assert!(failed(503, api, length).is_empty(), "{api:?} {length:?}");
    }
}

#[test]
fn whatever_an_api_says_a_hint_is_short_and_plain() {
    let mut random = fastrand::Rng::with_seed(7);
    let auths = [Auth::None, signed("ASIAEXAMPLE", Shown::Yes), token(claims("access"))];
    let words = [
        "User: arn:aws:iam::1:u is not authorized to perform: execute-api:Invoke on resource: ",
        "Canonical String for this request should have been\n'",
        "'\n\nThe String-to-Sign",
        "Signature expired",
        "Forbidden",
        "scope=\"",
        "error=\"insufficient_scope\"",
        "\u{1f600}\r\n\0",
        ":::::",
        "\n\n\n\n\n\n",
        "host:",
    ];
    let kinds = ["InvalidSignatureException", "AccessDeniedException", "#:", "", "UnauthorizedException"];
    for _ in 0..20_000 {
        let message: String = (0..random.usize(0..9)).map(|_| words[random.usize(0..words.len())]).collect();
        let body = serde_json::json!({ "message": message }).to_string();
        let auth = &auths[random.usize(0..auths.len())];
        let answer = Answer {
            status: [400, 401, 403, 404, 429, 500, 503][random.usize(0..7)],
            error_type: Some(kinds[random.usize(0..kinds.len())]),
            challenge: random.bool().then_some(message.as_str()),
            api: Api::Http,
            body: Some(body.as_bytes()),
            length: Some(33),
        };
        let canonical = random.bool().then_some("GET\n/\n\nhost:x\n\nhost\ne3");
        if let Some(diagnosis) = diagnose(&answer, &Sent { canonical, ..sent(auth) }) {
            let hint = diagnosis.hint(super::super::Evidence::Shown);
            assert!(hint.len() <= 640 && hint.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{hint}");
            assert!(diagnosis.findings().count() <= 4);
        }
    }
}
