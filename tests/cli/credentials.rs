//! AWS credentials that come through the process's environment.

use std::time::Duration;

use standin::{
    AccessKey, AccessKeys, AppClient, Authority, Authorizer, ContainerCredentials, Gateway, Role, Sts, TokenEndpoint,
};

use crate::process::{API, HEAD, Running, call, get, route, trusting};

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

#[tokio::test(flavor = "multi_thread")]
async fn an_online_check_says_what_was_obtained_and_whose_it_is() {
    let keys = keys();
    let role = |name: &str| Role {
        arn: format!("arn:aws:iam::210987654321:role/{name}"),
        external_id: None,
        trusted: vec!["AKIDCLI".to_owned()],
        lifetime: Duration::from_hours(1),
    };
    let sts = Sts::start(keys, "ap-northeast-1", vec![role("invoke")]).await;
    let client = AppClient {
        id: "orders".to_owned(),
        secret: "client-secret-71".to_owned(),
        scopes: vec!["orders/read".to_owned()],
        token_lifetime: Duration::from_hours(1),
    };
    let tokens = TokenEndpoint::start(vec![client]).await;
    let config = format!(
        "{HEAD}[auth.orders]\nkind = \"client-credentials\"\ntoken_url = \"{}\"\nclient_id = \"orders\"\n\
         client_secret = {{ env = \"SECRET\" }}\n[auth.user]\nkind = \"sigv4\"\nregion = \"ap-northeast-1\"\n\
         [auth.role]\nkind = \"sigv4\"\nregion = \"ap-northeast-1\"\nassume_role = {{ arn = \"{}\" }}\n\
         [auth.nobody]\nkind = \"sigv4\"\nregion = \"ap-northeast-1\"\ncredentials = {{ profile = \"no-such\" }}\n{}",
        tokens.url(),
        role("invoke").arn,
        ["orders", "user", "role", "nobody"]
            .map(|name| format!("[[route]]\npath = \"/{name}\"\nupstream = \"https://a.example\"\nauth = \"{name}\"\n"))
            .concat()
    );
    let folder = trusting(&Authority::new(), &config);
    let url = sts.url();
    let variables = [
        ("SECRET", "client-secret-71"),
        ("AWS_ACCESS_KEY_ID", "AKIDCLI"),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_ENDPOINT_URL_STS", url.as_str()),
    ];
    let output = tokio::task::block_in_place(|| call(folder.path(), &["check", "--online"], &variables));
    let (said, code) = (output.out + &output.err, output.code);
    let part = |name: &str| {
        let start = said.find(&format!("credential \"{name}\": ")).unwrap_or_else(|| panic!("{name}: {said}"));
        let rest = said.get(start..).unwrap();
        rest.lines().take(1).chain(rest.lines().skip(1).take_while(|line| line.starts_with(' '))).collect::<Vec<_>>()
    };
    assert!(said.contains(&format!("AWS_ENDPOINT_URL_STS is set: roles are assumed at {url}")), "{said}");
    let orders = part("orders");
    assert!(orders[0].contains("valid for 3"), "{orders:?}");
    assert_eq!(
        orders[1..4],
        [
            format!("  client-credentials token from {}", tokens.url()),
            "  principal: orders".to_owned(),
            "  scopes: orders/read".to_owned()
        ]
    );
    assert_eq!(orders[4], "  rides out an outage of 12 min, whenever it begins");
    let user = part("user");
    assert_eq!(user[0], "credential \"user\": valid, without an end");
    assert!(user.contains(&"  principal: arn:aws:iam::123456789012:user/cli"), "{user:?}");
    let role = part("role");
    let session = "  principal: arn:aws:sts::210987654321:assumed-role/invoke/countersign-role";
    assert!(role.contains(&session), "{role:?}");
    let nobody = part("nobody");
    assert!(
        nobody[0].starts_with("credential \"nobody\": none; last try:") && nobody[0].contains("no-such"),
        "{nobody:?}"
    );
    assert_eq!(code, 1, "one of them cannot be had");
    for secret in ["client-secret-71", SECRET] {
        assert!(!said.contains(secret));
    }
}

#[test]
fn an_sso_session_that_is_not_there_becomes_the_command_that_begins_one() {
    const CONFIG: &str = "[sso-session team]\nsso_start_url = https://team.awsapps.com/start\nsso_region = eu-west-1\n\
                          sso_registration_scopes = sso:account:access\n\n\
                          [profile dev]\nsso_session = team\nsso_account_id = 123456789012\nsso_role_name = Reader\n\n\
                          [profile old]\nsso_start_url = https://team.awsapps.com/start\nsso_region = eu-west-1\n\
                          sso_account_id = 123456789012\nsso_role_name = Reader\n";
    /// SHA-1 of "team", as the AWS CLI names the file.
    const CACHED: &str = "d25187dc137f35c88bc80ec8c3ffbdb17b5eb873.json";
    let home = tempfile::TempDir::new().unwrap();
    let cache = home.path().join(".aws/sso/cache");
    std::fs::create_dir_all(&cache).unwrap();
    std::fs::write(home.path().join(".aws/config"), CONFIG).unwrap();
    let said = |credentials: &str, variables: &[(&str, &str)]| {
        let config = format!(
            "[auth.iam]\nkind = \"sigv4\"\nregion = \"eu-west-1\"\n{credentials}\n[[route]]\n\
             upstream = \"https://a.example\"\nauth = \"iam\"\n"
        );
        std::fs::write(home.path().join("countersign.toml"), config).unwrap();
        let output = call(home.path(), &["check", "--online"], variables);
        assert_eq!(output.code, 1, "{}", output.err);
        output.out + &output.err
    };
    let (dev, old) = ("credentials = { profile = \"dev\" }", "credentials = { profile = \"old\" }");
    let check = |credentials: &str, variables: &[(&str, &str)], profile: &str| {
        let said = said(credentials, variables);
        let line = format!(
            "credential \"iam\": none; last try: the SSO session of profile \"{profile}\" is not there or has ended: run \
             `aws sso login --profile {profile}`"
        );
        assert!(said.lines().any(|said| said == line), "{said}");
    };
    check(dev, &[], "dev");
    check(old, &[], "old");
    check("", &[("AWS_PROFILE", "dev")], "dev");
    let token = "{\"accessToken\":\"sso-token-5d\",\"expiresAt\":\"2020-01-01T00:00:00Z\",\"region\":\"eu-west-1\",\
                 \"startUrl\":\"https://team.awsapps.com/start\"}";
    std::fs::write(cache.join(CACHED), token).unwrap();
    check(dev, &[], "dev");
}

#[tokio::test]
async fn a_profile_names_a_process_and_a_region() {
    let folder = tempfile::TempDir::new().unwrap();
    let program = folder.path().join("credentials.sh");
    let answer = format!(r#"{{"Version":1,"AccessKeyId":"AKIDCLI","SecretAccessKey":"{SECRET}"}}"#);
    std::fs::write(&program, format!("echo '{answer}'\n")).unwrap();
    let file = folder.path().join("config");
    std::fs::write(
        &file,
        format!("[profile team]\nregion = ap-northeast-1\ncredential_process = sh {}\n", program.display()),
    )
    .unwrap();
    let (file, path) = (("AWS_CONFIG_FILE", file.to_str().unwrap()), ("PATH", "/usr/bin:/bin"));
    signed(&keys(), "", &[("AWS_PROFILE", "team"), file, path], 1).await;
    signed(&keys(), "credentials = { profile = \"team\" }", &[file, path], 1).await;

    let custom = |credentials: &str, variables: &[(&str, &str)]| {
        let config = crate::process::folder(&format!(
            "[auth.iam]\nkind = \"sigv4\"\n{credentials}\n[[route]]\nupstream = \"https://api.example.com\"\nauth = \"iam\"\n"
        ));
        let said = call(config.path(), &["explain", "GET", "http://localhost:8080/a"], variables);
        said.out + &said.err
    };
    let team = "credentials = { profile = \"team\" }";
    for (credentials, variables, region) in [
        ("", &[("AWS_PROFILE", "team"), file][..], "ap-northeast-1"),
        ("", &[("AWS_PROFILE", "team"), file, ("AWS_REGION", "eu-west-1")], "eu-west-1"),
        // It was named, and with it what it says.
        (team, &[file, ("AWS_REGION", "eu-west-1")], "ap-northeast-1"),
    ] {
        let said = custom(credentials, variables);
        assert!(said.contains(&format!("SigV4 for execute-api in {region}")), "{region}: {said}");
    }
    assert!(custom(team, &[]).contains("the region for [auth.iam] cannot be read"));
}
