//! AWS credentials that come through the process's environment.

use std::time::Duration;

use standin::{AccessKey, AccessKeys, Authority, Authorizer, ContainerCredentials, Gateway};

use crate::process::{API, HEAD, Running, get, route, trusting};

const SECRET: &str = "environment-secret-5e";

fn keys() -> AccessKeys {
    let keys = AccessKeys::new();
    keys.add(AccessKey {
        id: "AKIDCLI".to_owned(),
        secret: SECRET.to_owned(),
        session_token: None,
        principal: "arn:aws:iam::123456789012:user/cli".to_owned(),
        expires: None,
    });
    keys
}

/// Sends `requests` through a `sigv4` route with the default chain; returns the log, after a search for secrets.
async fn signed(keys: &AccessKeys, auth: &str, variables: &[(&str, &str)], requests: usize) -> String {
    let authority = Authority::new();
    let iam =
        Authorizer::Iam { keys: keys.clone(), region: "ap-northeast-1".to_owned(), service: "execute-api".to_owned() };
    let gateway = Gateway::builder().tls(&authority, &[API]).method("/prod", iam).start().await;
    let head = HEAD.replace("[log]", "[log]\nlevel = \"trace\"");
    let config = format!("{head}[auth.iam]\nkind = \"sigv4\"\n{auth}\n{}", route(&gateway, "iam"));
    let folder = trusting(&authority, &config);
    let mut running = Running::start(folder.path(), &["run"], variables);
    let proxy = running.address("proxy").await;
    for _ in 0..requests {
        let (status, text) = get(proxy, "/orders").await;
        assert_eq!(status, 200, "{text}");
    }
    running.signal("TERM");
    let (code, said) = running.ended().await;
    assert_eq!(code, 0);
    for request in gateway.received() {
        let credential = request.header("authorization").unwrap().split_once("Credential=").unwrap().1;
        let key = keys.get(credential.split('/').next().unwrap()).unwrap();
        for secret in [Some(key.secret), key.session_token].into_iter().flatten() {
            assert!(!said.contains(&secret), "a secret is in the log: {secret}");
        }
    }
    said
}

#[tokio::test]
async fn keys_of_the_environment_are_found() {
    let variables = [("AWS_ACCESS_KEY_ID", "AKIDCLI"), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    signed(&keys(), "", &variables, 1).await;
}

#[tokio::test]
async fn a_profile_of_the_environment_is_found() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("credentials");
    let text = format!(
        "[default]\naws_access_key_id = AKIDWRONG\naws_secret_access_key = wrong\n\n[team]\naws_access_key_id = AKIDCLI\n\
         aws_secret_access_key = {SECRET}\n"
    );
    std::fs::write(&file, text).unwrap();
    let file = ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    signed(&keys(), "", &[("AWS_PROFILE", "team"), file], 1).await;
    signed(&keys(), "credentials = { profile = \"team\" }", &[file], 1).await;
}

#[tokio::test]
async fn the_containers_role_is_asked_once_with_its_token() {
    let keys = AccessKeys::new();
    let role = "arn:aws:iam::123456789012:role/task";
    let container = ContainerCredentials::start(keys.clone(), role, Duration::from_hours(6)).await;
    container.require_authorization("container-token-6f");
    let (url, token) = (container.url(), "container-token-6f");
    let variables =
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", token)];
    let said = signed(&keys, "", &variables, 20).await;
    assert_eq!(container.calls(), 1);
    assert_eq!(container.received()[0].authorization.as_deref(), Some(token));
    assert!(!said.contains(token), "the token is in the log");
}
