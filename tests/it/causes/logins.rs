//! Logins that a user pool does not take, and identities that a pool does not give.

use std::time::Duration;

use standin::{
    AccessKeys, Answer as Scripted, Authority, Authorizer, Factor, Gateway, IdentityPool, PoolClient, PoolUser,
    Refresh, UserPool,
};

use super::{names, respond};
use crate::support::{API, Countersign, REGION, Setup};

const POOL: &str = "ap-northeast-1_AtRsMFTq0";
const IDENTITIES: &str = "ap-northeast-1:0d5f3c1e-7a0b-4f43-9d2e-2f6f0c5b7e11";
const PASSWORD: &str = "right-horse-12";

pub(super) struct World {
    pub(super) countersign: Countersign,
    pub(super) gateway: Gateway,
    pub(super) users: UserPool,
    identities: IdentityPool,
}

impl World {
    pub(super) async fn finish(mut self) {
        self.countersign.hide(self.users.issued());
        self.countersign.finish().await;
    }

    async fn names(self, path: &str, codes: &[&str]) {
        let answer = self.countersign.get(path).await;
        assert_eq!(answer.verdict(), (503, "credential-unavailable"));
        names(&self.countersign, &answer, codes).await;
        assert_eq!(self.gateway.requests(), 0);
        let _calls = self.identities.calls("GetId");
        self.finish().await;
    }
}

/// Routes `/orders` (a user's token), `/iam` (the user's identity) and `/guest` (nobody's); `lines` belong to the login.
pub(super) async fn world(lines: &str, factor: Factor, password: &'static str) -> World {
    scripted(lines, factor, password, None, None).await
}

async fn scripted(
    lines: &str,
    factor: Factor,
    password: &'static str,
    login: Option<Scripted>,
    identity: Option<Scripted>,
) -> World {
    let keys = AccessKeys::new();
    let client = PoolClient {
        id: "client1".into(),
        secret: None,
        flows: vec!["ALLOW_USER_SRP_AUTH"],
        token_lifetime: Duration::from_hours(1),
        refresh: Refresh::Plain,
    };
    let user = PoolUser { alias: "eve".into(), name: "eve".into(), password: PASSWORD.into(), factor };
    let users = UserPool::start(POOL, client, vec![user], keys.clone()).await;
    if let Some(answer) = login {
        users.script(answer);
    }
    let provider = (format!("cognito-idp.{REGION}.amazonaws.com/{POOL}"), users.verifier());
    let identities = IdentityPool::start(IDENTITIES, Some(provider), &[], Duration::from_hours(1), keys).await;
    if let Some(answer) = identity {
        identities.script(answer);
    }
    let authority = Authority::new();
    let gateway = Gateway::builder().tls(&authority, &[API]).method("/prod", Authorizer::Open).start().await;
    let route = |path: &str, auth: &str| {
        format!(
            "[[route]]\nname = \"{auth}\"\npath = \"{path}\"\nauth = \"{auth}\"\nupstream = \"https://{API}/prod\"\n\
             connect_to = \"127.0.0.1:{}\"\n",
            gateway.port()
        )
    };
    let pool = |login: &str| {
        format!(
            "kind = \"sigv4\"\ncredentials = {{ identity_pool = {{ id = \"{IDENTITIES}\"{login}, endpoint = \"{}\" }} }}\n",
            identities.url()
        )
    };
    let mut setup = Setup::new(&authority).secret("PASSWORD", password).add(&format!(
        "[auth.person]\nkind = \"cognito-user\"\nuser_pool_id = \"{POOL}\"\nclient_id = \"client1\"\nendpoint = \"{}\"\n\
         username = \"eve\"\npassword = {{ env = \"PASSWORD\" }}\n{lines}\n{}",
        users.url(),
        route("/orders", "person")
    ));
    if lines.contains("# identity") {
        setup = setup.add(&format!("[auth.iam]\n{}{}", pool(", login = \"person\""), route("/iam", "iam")));
    }
    if lines.contains("# guest") {
        setup = setup.add(&format!("[auth.guest]\n{}{}", pool(""), route("/guest", "guest")));
    }
    let countersign = setup.start().await;
    countersign.until_ready().await;
    World { countersign, gateway, users, identities }
}

fn fault(kind: &str, message: &str) -> Scripted {
    respond(400, &[], &serde_json::json!({"__type": kind, "message": message}).to_string())
}

macro_rules! refused {
    ($($name:ident: $world:expr => $($code:literal),+;)*) => {$(
        #[tokio::test]
        async fn $name() {
            $world.await.names("/orders", &[$($code),+]).await;
        }
    )*};
}

refused! {
    a_wrong_password: world("", Factor::None, "wrong-horse-12") => "password-refused", "user-locked";
    a_user_who_is_locked_out:
        scripted("", Factor::None, PASSWORD, Some(fault("NotAuthorizedException", "Password attempts exceeded")), None)
        => "user-locked", "password-refused";
    a_user_who_is_disabled:
        scripted("", Factor::None, PASSWORD, Some(fault("NotAuthorizedException", "User is disabled.")), None)
        => "user-disabled";
    a_client_secret_that_is_not_wanted:
        world("client_secret = { env = \"PASSWORD\" }", Factor::None, PASSWORD) => "login-client-secret";
    a_client_secret_that_is_wrong: scripted("client_secret = { env = \"PASSWORD\" }", Factor::None, PASSWORD,
        Some(fault("NotAuthorizedException", "Unable to verify secret hash for client client1")), None)
        => "login-client-secret";
    a_user_whom_nobody_knows: world("", Factor::Refuse("UserNotFoundException"), PASSWORD) => "user-unknown";
    a_user_who_was_never_confirmed: world("", Factor::Refuse("UserNotConfirmedException"), PASSWORD)
        => "user-unconfirmed";
    a_password_that_must_be_reset: world("", Factor::Refuse("PasswordResetRequiredException"), PASSWORD)
        => "password-reset";
    a_trigger_that_refuses: world("", Factor::Refuse("UserLambdaValidationException"), PASSWORD) => "login-trigger";
    a_flow_that_is_not_enabled: world("flow = \"password\"", Factor::None, PASSWORD) => "flow-not-enabled";
    a_client_whom_nobody_knows: world("", Factor::Refuse("ResourceNotFoundException"), PASSWORD)
        => "pool-or-client-unknown";
    a_first_password: world("", Factor::Challenge("NEW_PASSWORD_REQUIRED"), PASSWORD) => "new-password";
    an_authenticator_app_without_its_seed: world("", Factor::Totp(b"12345678901234567890".to_vec()), PASSWORD)
        => "seed-missing";
    an_authenticator_app_with_another_seed:
        world("totp_seed = { value = \"JBSWY3DPEHPK3PXP\" }", Factor::Totp(b"12345678901234567890".to_vec()), PASSWORD)
        => "code-refused";
    a_code_by_text_message: world("", Factor::Challenge("SMS_MFA"), PASSWORD) => "factor-for-people";
    a_device_that_is_not_remembered: world("", Factor::Challenge("DEVICE_SRP_AUTH"), PASSWORD) => "device-tracking";
    a_challenge_of_the_pools_own: world("", Factor::Challenge("CUSTOM_CHALLENGE"), PASSWORD) => "challenge-unknown";
    a_code_that_another_program_used: scripted("", Factor::None, PASSWORD, Some(fault("ExpiredCodeException", "used")), None)
        => "code-used";
    keys_that_may_not_log_users_in:
        scripted("", Factor::None, PASSWORD, Some(fault("AccessDeniedException", "no policy")), None) => "admin-login-denied";
    a_pool_that_throttles: scripted("", Factor::None, PASSWORD, Some(fault("TooManyRequestsException", "slow down")), None)
        => "service-throttled";
}

#[tokio::test]
async fn identities_that_are_not_given() {
    for (kind, message, code) in [
        ("NotAuthorizedException", "Token is not from a supported provider", "identity-login-refused"),
        ("InvalidIdentityPoolConfigurationException", "Invalid identity pool configuration", "identity-pool-roles"),
        ("ResourceNotFoundException", "IdentityPool not found", "identity-pool-unknown"),
    ] {
        let world = scripted("# identity", Factor::None, PASSWORD, None, Some(fault(kind, message))).await;
        world.names("/iam", &[code]).await;
    }
    let world =
        scripted("# guest", Factor::None, PASSWORD, None, Some(fault("NotAuthorizedException", "no guests"))).await;
    world.names("/guest", &["guests-refused"]).await;
}

#[tokio::test]
async fn an_identity_whose_login_fails_names_the_logins_cause() {
    world("# identity", Factor::None, "wrong-horse-12").await.names("/iam", &["password-refused", "user-locked"]).await;
}
