//! Behaviour of STS over its socket.

use std::time::SystemTime;

use super::*;
use crate::encoding::percent_encode;
use crate::sigv4::sign;
use crate::testing::send;

const ROLE: &str = "arn:aws:iam::123456789012:role/api/invoke";

fn user() -> AccessKey {
    AccessKey {
        id: "AKIDUSER".to_owned(),
        secret: "secret".to_owned(),
        session_token: None,
        principal: "arn:aws:iam::123456789012:user/app".to_owned(),
        expires: None,
    }
}

async fn sts(keys: &AccessKeys) -> Sts {
    let role = |arn: &str, external_id: Option<&str>, trusted: &str| Role {
        arn: arn.to_owned(),
        external_id: external_id.map(ToOwned::to_owned),
        trusted: vec![trusted.to_owned()],
        lifetime: Duration::from_hours(12),
    };
    let roles = vec![
        role(ROLE, Some("shared"), "AKIDUSER"),
        role("arn:aws:iam::210987654321:role/far", None, ROLE),
        role("arn:aws:iam::210987654321:role/closed", None, "AKIDOTHER"),
    ];
    Sts::start(keys.clone(), "eu-west-1", roles).await
}

/// Status and body of an answer to these parameters, signed with `key` for `region`.
async fn call(sts: &Sts, key: &AccessKey, region: &str, parameters: &[(&str, &str)]) -> (u16, String) {
    let body: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name}={}", percent_encode(value.as_bytes(), b""))).collect();
    let body = body.join("&");
    let host = sts.url().replace("http://", "");
    let headers = [("host".to_owned(), host.into_bytes())];
    let payload = sha256_hex(body.as_bytes());
    let presented = Presented { method: "POST", target: "/", authority: None, headers: &headers, payload: &payload };
    let rules = Rules { region, service: "sts", window: CLOCK_WINDOW };
    let signed = sign(&presented, &rules, key, SystemTime::now());
    let signed: Vec<(&str, &str)> =
        signed.iter().map(|(name, value)| (name.as_str(), std::str::from_utf8(value).unwrap())).collect();
    let response = send("POST", &format!("{}/", sts.url()), &signed, &body).await.unwrap();
    (response.status().as_u16(), String::from_utf8(response.into_body().to_vec()).unwrap())
}

async fn assume(sts: &Sts, key: &AccessKey, arn: &str, more: &[(&str, &str)]) -> (u16, String) {
    let mut parameters = vec![("Action", "AssumeRole"), ("Version", "2011-06-15"), ("RoleArn", arn)];
    if more.iter().all(|(name, _)| *name != "RoleSessionName") {
        parameters.push(("RoleSessionName", "countersign"));
    }
    parameters.extend(more);
    call(sts, key, "eu-west-1", &parameters).await
}

fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap_or_default();
    rest.split_once(&format!("</{name}>")).unwrap_or_default().0
}

fn keys() -> AccessKeys {
    let keys = AccessKeys::new();
    keys.add(user());
    keys
}

#[tokio::test]
async fn an_assumed_role_gets_keys_that_sign() {
    let keys = keys();
    let sts = sts(&keys).await;
    let (status, answer) = assume(&sts, &user(), ROLE, &[("ExternalId", "shared"), ("DurationSeconds", "900")]).await;
    assert_eq!(status, 200, "{answer}");
    let session = keys.get(element(&answer, "AccessKeyId")).unwrap();
    assert_eq!(session.secret, element(&answer, "SecretAccessKey"));
    assert_eq!(session.session_token.as_deref(), Some(element(&answer, "SessionToken")));
    assert_eq!(session.principal, "arn:aws:sts::123456789012:assumed-role/invoke/countersign");

    let (status, answer) = call(&sts, &session, "eu-west-1", &[("Action", "GetCallerIdentity")]).await;
    assert_eq!((status, element(&answer, "Arn")), (200, session.principal.as_str()));
    assert_eq!(element(&answer, "Account"), "123456789012");
    assert_eq!(sts.calls(), 2);
    assert_eq!(sts.received()[0]["RoleSessionName"], "countersign");
}

#[tokio::test]
async fn a_chained_role_lasts_an_hour_at_most() {
    let keys = keys();
    let sts = sts(&keys).await;
    let (_, answer) = assume(&sts, &user(), ROLE, &[("ExternalId", "shared")]).await;
    let session = keys.get(element(&answer, "AccessKeyId")).unwrap();
    let far = "arn:aws:iam::210987654321:role/far";
    assert_eq!(assume(&sts, &session, far, &[]).await.0, 200);
    let (status, answer) = assume(&sts, &session, far, &[("DurationSeconds", "3601")]).await;
    assert_eq!((status, element(&answer, "Code")), (400, "ValidationError"));
    assert!(answer.contains("1 hour session limit"), "{answer}");
}

#[tokio::test]
async fn each_mistake_has_its_code() {
    let sts = sts(&keys()).await;
    let long = "a".repeat(65);
    for (arn, more, status, code) in [
        (ROLE, &[][..], 403, "AccessDenied"),
        (ROLE, &[("ExternalId", "Shared")], 403, "AccessDenied"),
        ("arn:aws:iam::210987654321:role/closed", &[], 403, "AccessDenied"),
        ("arn:aws:iam::210987654321:role/none", &[], 403, "AccessDenied"),
        (ROLE, &[("DurationSeconds", "899")], 400, "ValidationError"),
        (ROLE, &[("DurationSeconds", "43201")], 400, "ValidationError"),
        (ROLE, &[("RoleSessionName", "a b")], 400, "ValidationError"),
        (ROLE, &[("RoleSessionName", "a")], 400, "ValidationError"),
        (ROLE, &[("RoleSessionName", &long)], 400, "ValidationError"),
    ] {
        let (got, answer) = assume(&sts, &user(), arn, more).await;
        assert_eq!((got, element(&answer, "Code")), (status, code), "{arn} {more:?}");
    }
}

#[tokio::test]
async fn the_signature_must_be_good_and_for_this_region() {
    let sts = sts(&keys()).await;
    let identity = [("Action", "GetCallerIdentity")];
    for (key, region, status, code) in [
        (AccessKey { secret: "wrong".to_owned(), ..user() }, "eu-west-1", 403, "SignatureDoesNotMatch"),
        (user(), "us-east-1", 403, "SignatureDoesNotMatch"),
        (AccessKey { id: "AKIDNOBODY".to_owned(), ..user() }, "eu-west-1", 403, "InvalidClientTokenId"),
    ] {
        let (got, answer) = call(&sts, &key, region, &identity).await;
        assert_eq!((got, element(&answer, "Code")), (status, code));
    }
    let url = format!("{}/", sts.url());
    let response = send("POST", &url, &[], "Action=GetCallerIdentity").await.unwrap();
    assert!(String::from_utf8_lossy(response.body()).contains("MissingAuthenticationToken"));
}

#[tokio::test]
async fn the_clock_may_be_a_quarter_of_an_hour_off() {
    let sts = sts(&keys()).await;
    for (minutes, status) in [(14, 200), (16, 403)] {
        sts.clock().set(move || SystemTime::now() + Duration::from_mins(minutes));
        assert_eq!(call(&sts, &user(), "eu-west-1", &[("Action", "GetCallerIdentity")]).await.0, status);
    }
}
