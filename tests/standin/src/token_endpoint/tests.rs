//! Behaviour of the token endpoint over its socket.

use std::sync::Arc;

use tokio::sync::Notify;

use super::*;
use crate::testing::{get, json_body, post, send};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const GRANT: &str = "grant_type=client_credentials&client_id=orders&client_secret=s%2Bcret";

fn client(id: &str, secret: &str, scopes: &[&str]) -> AppClient {
    AppClient {
        id: id.to_owned(),
        secret: secret.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        token_lifetime: Duration::from_hours(1),
    }
}

async fn endpoint() -> TokenEndpoint {
    let orders = client("orders", "s+cret", &["orders/read", "orders/write"]);
    TokenEndpoint::start(vec![orders, client("stock", "other", &["stock/read"])]).await
}

/// The status and the `error` of an answer to this form.
async fn refused(endpoint: &TokenEndpoint, headers: &[(&str, &str)], form: &str) -> (u16, String) {
    let response = post(&endpoint.url(), headers, form).await;
    let status = response.status().as_u16();
    (status, json_body(response)["error"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_client_gets_a_token_by_form_or_by_basic() {
    let endpoint = endpoint().await;
    let answer = json_body(post(&endpoint.url(), &[FORM], GRANT).await);
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(3600)));
    assert_eq!(answer.get("scope"), None);
    let claims = endpoint.verifier().verify(answer["access_token"].as_str().unwrap()).unwrap();
    assert_eq!((claims.client_id.as_str(), claims.scope.as_str()), ("orders", "orders/read orders/write"));

    let basic = format!("Basic {}", STANDARD.encode("orders:s%2Bcret"));
    let form = "grant_type=client_credentials&scope=orders%2Fread+unheard%2Fof";
    let answer = json_body(post(&endpoint.url(), &[FORM, ("authorization", &basic)], form).await);
    assert_eq!(endpoint.verifier().verify(answer["access_token"].as_str().unwrap()).unwrap().scope, "orders/read");

    assert_eq!(endpoint.calls(), 2);
    assert_eq!(endpoint.issued().len(), 2);
    assert_eq!(endpoint.received()[1].authorization, Some(basic));
    assert_eq!(endpoint.received()[1].form[1], ("scope".to_owned(), "orders/read unheard/of".to_owned()));
}

#[tokio::test]
async fn each_mistake_has_its_error() {
    let endpoint = endpoint().await;
    let basic = format!("Basic {}", STANDARD.encode("orders:s%2Bcret"));
    let basic = ("authorization", basic.as_str());
    let bare = "grant_type=client_credentials";
    for (headers, form, error) in [
        (&[][..], GRANT, "invalid_request"),
        (&[FORM], "", "invalid_request"),
        (&[FORM], bare, "invalid_client"),
        (&[FORM], "grant_type=client_credentials&client_id=orders&client_secret=wrong", "invalid_client"),
        (&[FORM, basic], GRANT, "invalid_request"),
        (&[FORM, basic], "grant_type=client_credentials&client_id=stock", "invalid_client"),
        (&[FORM, ("authorization", "Basic !")], bare, "invalid_client"),
        (&[FORM, basic], "grant_type=password", "unsupported_grant_type"),
        (&[FORM, basic], "grant_type=client_credentials&grant_type=client_credentials", "invalid_request"),
        (&[FORM, basic], "grant_type=client_credentials&scope=openid", "invalid_scope"),
        (&[FORM, basic], "grant_type=client_credentials&scope=stock/read", "invalid_grant"),
    ] {
        assert_eq!(refused(&endpoint, headers, form).await, (400, error.to_owned()), "{form}");
    }
    assert_eq!(get(&endpoint.url(), &[]).await.status(), 405);
    assert_eq!(post(&endpoint.url().replace("token", "authorize"), &[FORM], GRANT).await.status(), 404);
    assert!(endpoint.issued().is_empty());
}

#[tokio::test]
async fn a_rotated_secret_replaces_the_old_one_and_a_revoked_token_is_refused() {
    let endpoint = endpoint().await;
    endpoint.rotate_secret("orders", "new");
    assert_eq!(refused(&endpoint, &[FORM], GRANT).await.1, "invalid_client");
    let form = "grant_type=client_credentials&client_id=orders&client_secret=new";
    assert_eq!(refused(&endpoint, &[FORM], form).await.0, 200);
    let token = endpoint.issued().remove(0);
    assert!(endpoint.verifier().verify(&token).is_ok());
    endpoint.revoke(&token);
    assert!(endpoint.verifier().verify(&token).is_err());
}

#[tokio::test]
async fn the_script_comes_first_and_then_normal_behaviour() {
    let endpoint = endpoint().await;
    let headers = vec![("retry-after".to_owned(), "7".to_owned())];
    endpoint.script(Answer::Respond { status: 429, headers, body: b"slow down".to_vec() });
    endpoint.script(Answer::Close);
    endpoint.script(Answer::Issue { expires_in: json!("60"), scope: Some("less".to_owned()) });
    endpoint.script(Answer::Issue { expires_in: Value::Null, scope: None });

    let response = post(&endpoint.url(), &[FORM], GRANT).await;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &HeaderValue::from(7)));
    assert_eq!(response.into_body(), "slow down");
    assert!(send("POST", &endpoint.url(), &[FORM], GRANT).await.is_err());
    let answer = json_body(post(&endpoint.url(), &[FORM], GRANT).await);
    assert_eq!((&answer["expires_in"], &answer["scope"]), (&json!("60"), &json!("less")));
    assert_eq!(endpoint.verifier().verify(answer["access_token"].as_str().unwrap()).unwrap().scope, "less");
    assert_eq!(json_body(post(&endpoint.url(), &[FORM], GRANT).await).get("expires_in"), None);
    assert_eq!(json_body(post(&endpoint.url(), &[FORM], GRANT).await)["expires_in"], 3600);
}

#[tokio::test]
async fn a_held_call_is_counted_at_once_and_answered_when_notified() {
    let endpoint = endpoint().await;
    let go = Arc::new(Notify::new());
    endpoint.script(Answer::Hold(Arc::clone(&go)));
    let (url, form) = (endpoint.url(), [FORM]);
    let (response, ()) = tokio::join!(post(&url, &form, GRANT), async {
        endpoint.until_calls(1).await;
        assert!(endpoint.issued().is_empty());
        go.notify_one();
    });
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn an_answer_that_never_comes_ends_with_the_endpoint() {
    let endpoint = endpoint().await;
    endpoint.script(Answer::Never);
    let url = endpoint.url();
    let (response, ()) = tokio::join!(send("POST", &url, &[FORM], GRANT), async {
        endpoint.until_calls(1).await;
        // The call is counted a moment before it takes its answer from the script.
        while endpoint.double.script.unused() > 0 {
            tokio::task::yield_now().await;
        }
        drop(endpoint);
    });
    assert!(response.is_err());
}
