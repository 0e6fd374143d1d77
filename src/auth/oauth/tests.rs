use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span;

use super::*;
use crate::auth::error::Permanence;
use crate::auth::refreshing::Chain;
use crate::auth::spec::SecretSource;
use crate::clock::Clock;

const SECRET: &str = "s3cr3t+/=&%:\u{e9}-hunter2";
const TOKEN: &str = "eyJraWQ.t0k3n-of-the-test.c2ln";

fn client() -> ClientCredentials {
    ClientCredentials {
        token_url: "https://pool.auth.eu-west-1.amazoncognito.com/oauth2/token".into(),
        client_id: "client 1".into(),
        client_secret: SecretSource::Fixed(SECRET.into()),
        client_auth: ClientAuth::Basic,
        scopes: Vec::new(),
        params: BTreeMap::new(),
    }
}

fn source(client: ClientCredentials) -> ClientCredentialsSource {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    ClientCredentialsSource::new(
        Control::try_new(tls, crate::egress::Egress::direct()).unwrap(),
        client,
        SecretReader::fixed(SECRET.into()),
    )
}

fn with_scopes(scopes: &[&str]) -> ClientCredentials {
    ClientCredentials { scopes: scopes.iter().map(ToString::to_string).collect(), ..client() }
}

fn request(client: ClientCredentials) -> (Option<HeaderValue>, String) {
    source(client).request(&SECRET.into())
}

#[tokio::test]
async fn a_basic_client_sends_both_halves_form_encoded_and_nothing_of_it_in_the_form() {
    let (authorization, form) = request(client());
    let authorization = authorization.unwrap();
    assert!(authorization.is_sensitive());
    let encoded = authorization.to_str().unwrap().strip_prefix("Basic ").unwrap();
    // RFC 6749 2.3.1 and appendix B: space is "+", the colon between the halves is the only one.
    let pair = String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap();
    assert_eq!(pair, "client+1:s3cr3t%2B%2F%3D%26%25%3A%C3%A9-hunter2");
    assert_eq!(form, "grant_type=client_credentials");
}

#[tokio::test]
async fn a_long_basic_secret_has_no_line_break() {
    for length in [51, 57, 58, 76, 200, 1_000] {
        let secret = Secret::new("x".repeat(length));
        let (authorization, _) = source(client()).request(&secret);
        let authorization = authorization.unwrap();
        let text = authorization.to_str().unwrap();
        assert!(text.strip_prefix("Basic ").unwrap().bytes().all(|byte| byte.is_ascii_graphic()), "{length}");
        assert_eq!(text.len(), 6 + (length + "client+1:".len()).div_ceil(3) * 4);
    }
}

#[tokio::test]
async fn a_body_client_sends_form_fields_and_no_authorization() {
    let (authorization, form) = request(ClientCredentials { client_auth: ClientAuth::Body, ..client() });
    assert!(authorization.is_none());
    assert_eq!(
        form,
        "grant_type=client_credentials&client_id=client+1&client_secret=s3cr3t%2B%2F%3D%26%25%3A%C3%A9-hunter2"
    );
}

#[tokio::test]
async fn scopes_that_are_urls_are_encoded_and_joined_by_one_space() {
    let (_, form) = request(with_scopes(&["https://api.example/orders.read", "orders/write"]));
    assert_eq!(form, "grant_type=client_credentials&scope=https%3A%2F%2Fapi.example%2Forders.read+orders%2Fwrite");
}

#[tokio::test]
async fn further_form_fields_are_encoded_on_both_sides() {
    let params = [("aws_client_metadata", r#"{"a": "b&c=d"}"#), ("a u", "100%20")];
    let params = params.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    let (_, form) = request(ClientCredentials { params, ..client() });
    assert_eq!(form, "grant_type=client_credentials&a+u=100%2520&aws_client_metadata=%7B%22a%22%3A+%22b%26c%3Dd%22%7D");
}

#[tokio::test]
async fn a_source_does_not_print_its_secret() {
    for client_auth in [ClientAuth::Basic, ClientAuth::Body] {
        let source = source(ClientCredentials { client_auth, ..client() });
        let (authorization, _) = source.request(&SECRET.into());
        let said = format!("{source:?} {source:#?} {authorization:?}");
        let basic = STANDARD.encode("client+1:s3cr3t");
        let (basic, _) = basic.split_at(16);
        assert!(!said.contains("hunter2") && !said.contains(basic), "{said}");
    }
}

/// What an answer is taken for.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// A token with this much life, in seconds.
    Token(u64),
    /// An answer that cannot be used.
    Malformed,
    /// The endpoint says no, with this code.
    Refused(&'static str),
    /// Come back after so many seconds, or at some time.
    Throttled(Option<u64>),
    /// Its own failure.
    Failing(u16, Option<u64>),
}

use Verdict::{Failing, Malformed, Refused, Throttled, Token};

fn answer(status: u16, retry_after: Option<u64>, body: impl Into<Vec<u8>>) -> Answer {
    Answer {
        status: StatusCode::from_u16(status).unwrap(),
        retry_after: retry_after.map(Duration::from_secs),
        body: body.into(),
    }
}

/// 200, a token, and this as the rest of the object.
fn granted(rest: &str) -> Answer {
    answer(200, None, format!(r#"{{"access_token":"{TOKEN}","token_type":"Bearer"{rest}}}"#))
}

fn token_of(token: &str) -> Answer {
    let token = serde_json::to_string(token).unwrap();
    answer(200, None, format!(r#"{{"access_token":{token},"token_type":"Bearer","expires_in":3600}}"#))
}

fn error(status: u16, code: &str) -> Answer {
    answer(status, None, format!(r#"{{"error":"{code}","error_description":"because"}}"#))
}

/// Whether what was said is what was expected; tells what was said.
fn check(source: &ClientCredentialsSource, answer: &Answer, expected: &Verdict) -> Result<(), String> {
    let now = Clock::system().now();
    let outcome = source.judge(answer, &SECRET.into(), now);
    let seconds = |duration: &Option<Duration>| duration.map(|duration| duration.as_secs());
    let right = match (&outcome, expected) {
        (Ok(fetched), Token(life)) => {
            fetched.expiry.is_some_and(|expiry| expiry.left(now) == Duration::from_secs(*life))
        }
        (Err(FetchError::Malformed { .. }), Malformed) => true,
        (Err(FetchError::Refused { code, .. }), Refused(expected)) => code == expected,
        (Err(FetchError::Throttled { retry_after, .. }), Throttled(expected)) => seconds(retry_after) == *expected,
        (Err(FetchError::Failing { status, retry_after, .. }), Failing(expected, after)) => {
            status == expected && seconds(retry_after) == *after
        }
        _ => false,
    };
    if let Err(error) = &outcome {
        let said = format!("{error} {error:?} {}", Chain(error));
        for secret in [TOKEN, "t0k3n", "hunter2"] {
            assert!(!said.contains(secret), "{said}");
        }
        assert!(said.chars().all(|c| c == ' ' || c.is_ascii_graphic()), "not fit for one log line: {said:?}");
        assert!(said.len() < 2_000, "{} bytes", said.len());
        let passing = !matches!(expected, Refused(_));
        assert_eq!(error.permanence() == Permanence::Passing, passing, "{error:?}");
    } else {
        assert!(!format!("{outcome:?}").contains("t0k3n"), "a fetched token prints");
    }
    if right { Ok(()) } else { Err(format!("{outcome:?}")) }
}

fn odd_successes() -> Vec<(&'static str, Answer, Verdict)> {
    let raw = |body: &[u8]| answer(200, None, body);
    vec![
        ("HTML", raw(b"<html><body>Sign in</body></html>"), Malformed),
        ("nothing", raw(b""), Malformed),
        ("white space", raw(b" \r\n"), Malformed),
        ("null", raw(b"null"), Malformed),
        ("an array", raw(b"[]"), Malformed),
        ("an empty object", raw(b"{}"), Malformed),
        ("half an object", raw(br#"{"access_token":"eyJraWQ.t0k3n-of-the-test.c2ln","token_ty"#), Malformed),
        ("something behind it", raw(br#"{"access_token":"t0k3n","token_type":"Bearer"} trailing"#), Malformed),
        ("not UTF-8", raw(b"{\"access_token\":\"t0k3n\xff\",\"token_type\":\"Bearer\"}"), Malformed),
        ("a byte order mark", raw(b"\xef\xbb\xbf{\"access_token\":\"t0k3n\",\"token_type\":\"Bearer\"}"), Malformed),
        ("gzip", raw(b"\x1f\x8b\x08\x00\x00\x00\x00\x00"), Malformed),
        ("nesting without end", raw("[".repeat(60_000).as_bytes()), Malformed),
        ("deep nesting under another key", granted(&format!(",\"x\":{}", "[".repeat(10_000))), Malformed),
        ("no token_type", raw(br#"{"access_token":"t0k3n","expires_in":3600}"#), Malformed),
        ("no access_token", raw(br#"{"id_token":"t0k3n","token_type":"Bearer","expires_in":3600}"#), Malformed),
        ("type MAC", raw(br#"{"access_token":"t0k3n","token_type":"MAC","expires_in":3600}"#), Malformed),
        ("type DPoP", raw(br#"{"access_token":"t0k3n","token_type":"DPoP","expires_in":3600}"#), Malformed),
        ("type with a space", raw(br#"{"access_token":"t0k3n","token_type":"Bearer "}"#), Malformed),
        ("type null", raw(br#"{"access_token":"t0k3n","token_type":null}"#), Malformed),
        ("lower-case type", raw(br#"{"access_token":"t0k3n","token_type":"bearer","expires_in":60}"#), Token(60)),
        ("a number as token", raw(br#"{"access_token":12345,"token_type":"Bearer"}"#), Malformed),
        ("a nested token", raw(br#"{"access_token":{"value":"t0k3n"},"token_type":"Bearer"}"#), Malformed),
        ("a token in an array", raw(br#"[{"access_token":"t0k3n","token_type":"Bearer"}]"#), Malformed),
        ("two access_tokens", granted(r#","access_token":"other","expires_in":60"#), Malformed),
        ("two expires_ins", granted(r#","expires_in":60,"expires_in":3600"#), Malformed),
        ("scope as an array", granted(r#","scope":["a"]"#), Malformed),
        ("keys nobody knows", granted(r#","expires_in":60,"id_token":null,"x":{"y":[1]}"#), Token(60)),
    ]
}

fn odd_lives() -> Vec<(&'static str, Answer, Verdict)> {
    vec![
        ("a usual life", granted(r#","expires_in":3600"#), Token(3_600)),
        ("no life", granted(""), Token(300)),
        ("life null", granted(r#","expires_in":null"#), Token(300)),
        ("life as text", granted(r#","expires_in":"3600""#), Malformed),
        ("life -1", granted(r#","expires_in":-1"#), Malformed),
        ("life 0", granted(r#","expires_in":0"#), Malformed),
        ("life 9", granted(r#","expires_in":9"#), Malformed),
        ("life 10", granted(r#","expires_in":10"#), Token(10)),
        ("life 3.5", granted(r#","expires_in":3.5"#), Malformed),
        ("life 9.99", granted(r#","expires_in":9.99"#), Malformed),
        ("life 3600.0", granted(r#","expires_in":3600.0"#), Token(3_600)),
        ("life 3.6e3", granted(r#","expires_in":3.6e3"#), Token(3_600)),
        ("life 1e18", granted(r#","expires_in":1e18"#), Token(86_400)),
        ("life 86,401", granted(r#","expires_in":86401"#), Token(86_400)),
        ("life of u64::MAX", granted(r#","expires_in":18446744073709551615"#), Token(86_400)),
        ("life beyond u64", granted(r#","expires_in":99999999999999999999999999"#), Token(86_400)),
        ("life beyond f64", granted(r#","expires_in":1e999"#), Malformed),
        ("life -1e308", granted(r#","expires_in":-1e308"#), Malformed),
        ("life NaN", granted(r#","expires_in":NaN"#), Malformed),
        ("life true", granted(r#","expires_in":true"#), Malformed),
        ("life in an array", granted(r#","expires_in":[3600]"#), Malformed),
        ("life in an object", granted(r#","expires_in":{"seconds":3600}"#), Malformed),
    ]
}

fn odd_tokens() -> Vec<(&'static str, Answer, Verdict)> {
    vec![
        ("an empty token", token_of(""), Malformed),
        ("a token with CRLF", token_of("t0k3n\r\nx-admin: 1"), Malformed),
        ("a token with LF at its end", token_of("t0k3n\n"), Malformed),
        ("a token with NUL", token_of("t0k3n\0"), Malformed),
        ("a token with a space", token_of("t0k3n t0k3n"), Malformed),
        ("a token with its scheme", token_of("Bearer t0k3n"), Malformed),
        ("a token with a comma", token_of("t0k3n,t0k3n"), Malformed),
        ("a token with quotes", token_of("\"t0k3n\""), Malformed),
        ("a token in UTF-8", token_of("t0k3n\u{e9}\u{4e2d}"), Malformed),
        ("a token of 16 KiB", token_of(&"t".repeat(16_384)), Token(3_600)),
        ("a token of a byte more", token_of(&"t".repeat(16_385)), Malformed),
        ("a token of 20 KB", token_of(&"t0k3n".repeat(4_000)), Malformed),
        ("an opaque token", token_of("-._~+/="), Token(3_600)),
    ]
}

fn refusals() -> Vec<(&'static str, Answer, Verdict)> {
    let throttled = r#"{"__type":"TooManyRequestsException","message":"Rate exceeded"}"#;
    vec![
        ("invalid_request", error(400, "invalid_request"), Refused("invalid_request")),
        ("invalid_client", error(400, "invalid_client"), Refused("invalid_client")),
        ("invalid_grant", error(400, "invalid_grant"), Refused("invalid_grant")),
        ("unauthorized_client", error(400, "unauthorized_client"), Refused("unauthorized_client")),
        ("unsupported_grant_type", error(400, "unsupported_grant_type"), Refused("unsupported_grant_type")),
        ("invalid_scope", error(400, "invalid_scope"), Refused("invalid_scope")),
        ("invalid_client with 401", error(401, "invalid_client"), Refused("invalid_client")),
        ("403 of a firewall", answer(403, None, "<html>Forbidden</html>"), Refused("status 403")),
        ("404 of a wrong path", answer(404, None, "t0k3n"), Refused("status 404")),
        ("405", answer(405, None, ""), Refused("status 405")),
        ("400 without a body", answer(400, None, ""), Refused("status 400")),
        ("an error that is a number", answer(400, None, r#"{"error":400}"#), Refused("status 400")),
        ("two errors", answer(400, None, r#"{"error":"a","error":"b"}"#), Refused("status 400")),
        ("a token with status 400", answer(400, None, granted("").body), Refused("status 400")),
        ("a control character", error(400, r"a\u001b[2Jb\r\nc"), Refused("a?[2Jb??c")),
        ("a description in UTF-8", answer(400, None, r#"{"error":"a","error_description":"é"}"#), Refused("a")),
        ("429", answer(429, None, ""), Throttled(None)),
        ("429 with Retry-After", answer(429, Some(30), "{}"), Throttled(Some(30))),
        ("429 with an OAuth error", answer(429, Some(7), error(429, "invalid_client").body), Throttled(Some(7))),
        ("400 TooManyRequestsException", error(400, "TooManyRequestsException"), Throttled(None)),
        ("400 with AWS's own form of it", answer(400, Some(3), throttled), Throttled(Some(3))),
        ("408", answer(408, None, ""), Failing(408, None)),
        ("500", answer(500, None, "t0k3n"), Failing(500, None)),
        ("502 of a load balancer", answer(502, None, "<html>"), Failing(502, None)),
        ("503 with Retry-After", answer(503, Some(120), ""), Failing(503, Some(120))),
        ("500 with an OAuth error", error(500, "invalid_client"), Failing(500, None)),
        ("302 to a sign-in page", answer(302, None, ""), Failing(302, None)),
        ("204", answer(204, None, ""), Failing(204, None)),
        ("201 with a token", answer(201, None, granted("").body), Failing(201, None)),
    ]
}

#[tokio::test]
async fn odd_answers_are_taken_for_what_they_are() {
    let source = source(client());
    let table = [odd_successes(), odd_lives(), odd_tokens(), refusals()].into_iter().flatten().collect::<Vec<_>>();
    assert!(table.len() >= 40, "{}", table.len());
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(what, answer, expected)| {
            let said = check(&source, answer, expected).err()?;
            Some(format!("{what}: expected {expected:?}, got {said}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}

#[tokio::test]
async fn an_endpoint_s_long_text_is_cut() {
    let long = answer(400, None, format!(r#"{{"error":"{0}","error_description":"{0}"}}"#, "x".repeat(60_000)));
    let Err(FetchError::Refused { code, message, .. }) =
        source(client()).judge(&long, &SECRET.into(), Clock::system().now())
    else {
        panic!("a refusal")
    };
    assert_eq!((code.len(), message.len()), (300, 300));
}

#[tokio::test]
async fn an_endpoint_that_repeats_the_secret_does_not_bring_it_into_an_error() {
    for written in
        [SECRET.to_owned(), form_encode(SECRET), STANDARD.encode(format!("client+1:{}", form_encode(SECRET)))]
    {
        let body = serde_json::json!({ "error": format!("bad {written}"), "error_description": format!("is {written} right?") });
        let refused = answer(400, None, body.to_string());
        let error = source(client()).judge(&refused, &SECRET.into(), Clock::system().now()).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(!said.contains("hunter2") && !said.contains(&written), "{said}");
        assert!(said.contains("[secret]"), "{said}");
    }
}

/// Keeps the warnings of one thread.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, _metadata: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}
    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                write!(self.0, "{}={value:?};", field.name()).unwrap();
            }
        }
        let mut text = Text(format!("{};", event.metadata().level()));
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
    fn enter(&self, _span: &span::Id) {}
    fn exit(&self, _span: &span::Id) {}
}

/// What is logged while this answer is judged.
fn warnings(client: ClientCredentials, answer: &Answer) -> Vec<String> {
    let source = source(client);
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        assert!(source.judge(answer, &SECRET.into(), Clock::system().now()).is_ok());
    });
    let lines = warnings.0.lock().unwrap();
    lines.clone()
}

fn jwt(claims: &str) -> String {
    format!("eyJhbGciOiJSUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

#[tokio::test]
async fn a_scope_that_was_asked_for_and_not_granted_is_warned_about() {
    let asked = ["orders/read", "orders/write"];
    for answer in [
        granted(r#","expires_in":60,"scope":"orders/read""#),
        granted(r#","expires_in":60,"scope":"""#),
        granted(r#","expires_in":60,"scope":"orders/write.all orders/read""#),
        token_of(&jwt(r#"{"scope":"orders/read","exp":1}"#)),
        // What the answer says counts more than the claim.
        granted(r#","scope":"orders/read","expires_in":60"#),
    ] {
        let lines = warnings(with_scopes(&asked), &answer);
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(line.starts_with("WARN;") && line.contains("orders/write"), "{line}");
        assert!(!line.contains("t0k3n") && !line.contains("hunter2") && !line.contains("eyJ"), "{line}");
    }
}

#[tokio::test]
async fn granted_scopes_and_tokens_that_do_not_tell_are_not_warned_about() {
    let asked = ["orders/read", "orders/write"];
    for answer in [
        granted(r#","expires_in":60,"scope":"orders/write orders/read more""#),
        granted(r#","expires_in":60,"scope":"  orders/write   orders/read ""#),
        granted(r#","expires_in":60,"scope":null"#),
        granted(r#","expires_in":60"#),
        token_of("opaque"),
        token_of("a..c"),
        token_of("a.bm90IGpzb24.c"),
        token_of(&jwt(r#"{"scope":["orders/read"]}"#)),
        token_of(&jwt(r#"{"sub":"x"}"#)),
        token_of(&jwt(r#"{"scope":"orders/read orders/write"}"#)),
    ] {
        assert_eq!(warnings(with_scopes(&asked), &answer), [""; 0]);
    }
    assert_eq!(warnings(client(), &granted(r#","scope":"""#)), [""; 0], "none was asked for");
}
