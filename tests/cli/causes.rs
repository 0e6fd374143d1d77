//! `check --online` names why a credential cannot be fetched.

use standin::{Answer, Authorizer, Gateway};

use crate::process::{call, folder};

/// One route with `credentials` that cannot be had; what the check says of them.
fn said(credentials: &str, variables: &[(&str, &str)]) -> String {
    let config = format!(
        "[auth.iam]\nkind = \"sigv4\"\nregion = \"eu-west-1\"\n{credentials}\n[[route]]\nupstream = \"https://a.example\"\n\
         auth = \"iam\"\n"
    );
    let folder = folder(&config);
    let output = call(folder.path(), &["check", "--online"], variables);
    assert_eq!(output.code, 1, "{output:?}");
    output.out + &output.err
}

fn names(credentials: &str, variables: &[(&str, &str)], code: &str) {
    let said = said(credentials, variables);
    let line = said.lines().find(|line| line.starts_with(&format!("  {code}: ")));
    assert!(line.is_some_and(|line| line.contains(". Fix: ")), "{code}: {said}");
}

#[test]
fn credentials_that_are_nowhere_are_named_by_where_they_were_looked_for() {
    names("", &[], "no-aws-credentials");
    names("credentials = \"environment\"", &[], "environment-keys-missing");
    names("credentials = { profile = \"no-such\" }", &[], "profile-missing");
    names("credentials = \"container\"", &[], "container-variables-missing");
    names("credentials = \"web-identity\"", &[], "web-identity");
}

#[test]
fn an_instance_that_does_not_answer_is_named() {
    let variables =
        [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")];
    names("credentials = \"instance\"", &variables, "instance-silent");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_a_role_is_named() {
    let instance = Gateway::builder().method("/", Authorizer::Open).start().await;
    let answer = |status, body: &str| Answer::Respond {
        status,
        headers: vec![("x-aws-ec2-metadata-token-ttl-seconds".to_owned(), "21600".to_owned())],
        body: body.as_bytes().to_vec(),
    };
    instance.script(answer(200, "a-token-of-the-instance"));
    instance.script(answer(404, "no role"));
    let url = format!("http://{}", instance.address());
    let variables = [("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str())];
    tokio::task::block_in_place(|| names("credentials = \"instance\"", &variables, "instance-role-missing"));
}

#[test]
fn a_web_identity_whose_file_is_gone_is_named() {
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/no/such/file"),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod"),
        ("AWS_ROLE_SESSION_NAME", "pod"),
    ];
    names("credentials = \"web-identity\"", &variables, "web-identity");
}
