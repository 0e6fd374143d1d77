"""Logins of countersign's at ministack, whose SRP, secret hashes, challenges and identity pools are other people's code.

moto would not do: it takes any password by SRP. ministack does not model the rotation of refresh tokens, so that is tested
against the stand-in alone.
"""

import base64
import hashlib
import hmac
import http.client
import json
import struct
import time

import pytest

from emulators import REGION, allow_invoke
from test_ministack import (  # noqa: F401 - fixtures too
    SETTINGS,
    BeforeReady,
    api_calls,
    backend,
    call,
    front,
    ministack,
    route,
    start,
)

PASSWORD = "Correct-Horse-4711"
ADMIN_SCOPE = "aws.cognito.signin.user.admin"  # of every access token that a login gives
FLOWS = {
    "srp": "ALLOW_USER_SRP_AUTH",
    "password": "ALLOW_USER_PASSWORD_AUTH",
    "admin-password": "ALLOW_ADMIN_USER_PASSWORD_AUTH",
}


def person(front, user, lines=""):
    secret = 'client_secret = { env = "CLIENT_SECRET" }' if user.secret else ""
    return f"""
[auth.person]
kind = "cognito-user"
user_pool_id = "{user.pool_id}"
client_id = "{user.id}"
username = "{user.name}"
password = {{ env = "PASSWORD" }}
endpoint = "{front.url}"
{secret}
{lines}
"""


def environment(user, **more):
    return {"PASSWORD": user.password, "CLIENT_SECRET": user.secret or "unused"} | more


def asked(front):
    """The operations that were called, and of logins the flow."""
    calls = []
    for request in front.noted:
        target = request.header("x-amz-target")
        if target:
            calls.append(json.loads(request.body).get("AuthFlow") or target.rpartition(".")[2])
    return calls


def tokens_of(front, api):
    return [request.header("authorization").split(" ")[-1] for request in api_calls(front, api)]


def claims(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def readiness(admin):
    connection = http.client.HTTPConnection(*admin, timeout=10)
    connection.request("GET", "/readyz")
    return connection.getresponse().read().decode()


@pytest.mark.parametrize("with_secret", [False, True])
@pytest.mark.parametrize("flow, calls", [
    ("srp", ["USER_SRP_AUTH", "RespondToAuthChallenge"]),
    ("password", ["USER_PASSWORD_AUTH"]),
    ("admin-password", ["ADMIN_USER_PASSWORD_AUTH"]),
])
def test_every_flow_logs_in_once_with_and_without_a_client_secret(
        start, front, ministack, backend, flow, calls, with_secret):
    user = ministack.pool_user("exuser", PASSWORD, GenerateSecret=with_secret, ExplicitAuthFlows=[FLOWS[flow]])
    api = ministack.jwt_api(backend, user, ADMIN_SCOPE)
    key = ministack.user(f"admin-{with_secret}", {"Effect": "Allow", "Action": "cognito-idp:Admin*", "Resource": "*"}) \
        if flow == "admin-password" else None
    lines = f'flow = "{flow}"' + ('\ncredentials = "environment"' if key else "")
    secrets = [PASSWORD] + ([user.secret] if user.secret else []) + (key.secrets() if key else [])
    variables = environment(user, **(key.environment() if key else {}))
    with start(person(front, user, lines) + route(front, api, "person"), variables, secrets) as address:
        assert [call(address)[0] for _ in range(5)] == [200] * 5
        secrets += tokens_of(front, api)
    assert asked(front) == calls
    assert claims(tokens_of(front, api)[0])["token_use"] == "access"
    if key:
        (admin,) = [request for request in front.noted if request.header("x-amz-target")]
        assert admin.signing_scope()[1:] == (REGION, "cognito-idp", "aws4_request")


def test_twelve_users_with_odd_names_and_passwords_log_in_by_srp(start, front, ministack, backend):
    config, variables, paths = "", {}, []
    for number in range(12):
        password = f"Aa1-{hashlib.sha256(str(number).encode()).hexdigest()[:5 * number + 6]}\u00fc\u20ac :"
        user = ministack.pool_user(f"user{number}.\u00e9\u5c71", password)
        api = ministack.jwt_api(backend, user, ADMIN_SCOPE)
        name = f"user{number}"
        config += person(front, user).replace("auth.person", f"auth.{name}").replace("PASSWORD", f"PASSWORD{number}")
        config += route(front, api, name).replace('"orders"', f'"{name}"\npath = "/{name}"')
        variables[f"PASSWORD{number}"] = password
        paths.append(f"/{name}")
    with start(config, variables, list(variables.values())) as address:
        assert [call(address, target=path)[0] for path in paths] == [200] * 12
    assert sorted(asked(front)) == ["RespondToAuthChallenge"] * 12 + ["USER_SRP_AUTH"] * 12


def test_the_id_token_goes_raw_where_that_is_asked_for(start, front, ministack, backend):
    user = ministack.pool_user("exuser", PASSWORD)
    api = ministack.jwt_api(backend, user)
    config = person(front, user, 'token = "id"\nscheme = ""') + route(front, api, "person")
    secrets = [PASSWORD]
    with start(config, environment(user), secrets) as address:
        assert call(address)[0] == 200
        secrets += tokens_of(front, api)
    (sent,) = api_calls(front, api)
    assert claims(sent.header("authorization"))["token_use"] == "id"


def test_a_wrong_password_is_a_503_and_is_tried_once(start, front, ministack, backend):
    user = ministack.pool_user("exuser", PASSWORD)
    api = ministack.jwt_api(backend, user, ADMIN_SCOPE)
    wrong = "Wrong-Horse-4711"
    with start(person(front, user) + route(front, api, "person"), {"PASSWORD": wrong}, [wrong], ready=False) as address:
        for _ in range(20):
            status, headers, body = call(address)
            assert (status, headers["x-countersign-error"]) == (503, "credential-unavailable"), body
            time.sleep(0.1)
    assert asked(front) == ["USER_SRP_AUTH", "RespondToAuthChallenge"]
    assert not api_calls(front, api) and not backend.reached


def test_a_temporary_password_is_named_with_the_command_that_helps(tmp_path, front, ministack, backend):
    user = ministack.pool_user("exuser", PASSWORD, permanent=False)
    api = ministack.jwt_api(backend, user, ADMIN_SCOPE)
    sidecar = BeforeReady(tmp_path, SETTINGS + person(front, user) + route(front, api, "person"), environment(user),
                          [PASSWORD])
    try:
        assert call(sidecar.proxy)[0] == 503
        said = readiness(sidecar.admin)
    finally:
        sidecar.stop()
    assert "NEW_PASSWORD_REQUIRED" in said
    assert f"aws cognito-idp admin-set-user-password --user-pool-id {user.pool_id} --username 'exuser'" in said
    assert asked(front) == ["USER_SRP_AUTH", "RespondToAuthChallenge"]


def test_a_login_is_renewed_and_made_anew_when_it_was_ended(start, front, ministack, backend):
    user = ministack.pool_user(
        "exuser", PASSWORD, GenerateSecret=True, AccessTokenValidity=16, IdTokenValidity=16,
        TokenValidityUnits={"AccessToken": "seconds", "IdToken": "seconds"},
        ExplicitAuthFlows=["ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"])
    api = ministack.jwt_api(backend, user, ADMIN_SCOPE)
    secrets = [PASSWORD, user.secret]
    login = ["USER_SRP_AUTH", "RespondToAuthChallenge"]

    def until(address, calls):
        deadline = time.monotonic() + 20
        while asked(front) != calls:
            assert call(address)[0] == 200
            assert time.monotonic() < deadline, asked(front)
            time.sleep(0.2)

    with start(person(front, user) + route(front, api, "person"), environment(user), secrets) as address:
        until(address, login)
        first = tokens_of(front, api)
        until(address, [*login, "REFRESH_TOKEN_AUTH"])
        ministack.client("cognito-idp").admin_user_global_sign_out(UserPoolId=user.pool_id, Username=user.name)
        until(address, [*login, "REFRESH_TOKEN_AUTH", "REFRESH_TOKEN_AUTH", *login])
        assert call(address)[0] == 200
        secrets += set(tokens_of(front, api))
    if first:
        assert claims(first[0])["exp"] - claims(first[0])["iat"] == 16


def test_a_second_factor_is_answered_with_the_seed(start, front, ministack, backend):
    user = ministack.pool_user(
        "exuser", PASSWORD, ExplicitAuthFlows=["ALLOW_USER_SRP_AUTH", "ALLOW_USER_PASSWORD_AUTH"])
    cognito = ministack.client("cognito-idp")
    token = cognito.initiate_auth(
        ClientId=user.id, AuthFlow="USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": user.name, "PASSWORD": PASSWORD})["AuthenticationResult"]["AccessToken"]
    cognito.set_user_pool_mfa_config(
        UserPoolId=user.pool_id, MfaConfiguration="OPTIONAL", SoftwareTokenMfaConfiguration={"Enabled": True})
    seed = cognito.associate_software_token(AccessToken=token)["SecretCode"]
    cognito.verify_software_token(AccessToken=token, UserCode=code(seed))
    cognito.set_user_mfa_preference(
        AccessToken=token, SoftwareTokenMfaSettings={"Enabled": True, "PreferredMfa": True})
    api = ministack.jwt_api(backend, user, ADMIN_SCOPE)
    config = person(front, user, 'totp_seed = { env = "SEED" }') + route(front, api, "person")
    with start(config, environment(user, SEED=seed), [PASSWORD, seed]) as address:
        assert call(address)[0] == 200
    assert asked(front) == ["USER_SRP_AUTH", "RespondToAuthChallenge", "RespondToAuthChallenge"]


def code(seed):
    tag = hmac.digest(base64.b32decode(seed), struct.pack(">Q", int(time.time()) // 30), "sha1")
    at = tag[-1] & 15
    return f"{(struct.unpack('>I', tag[at:at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06}"


def test_a_login_becomes_keys_that_sign_for_an_iam_api(start, front, ministack, backend):
    user = ministack.pool_user("exuser", PASSWORD)
    api = ministack.iam_api(backend)
    role = ministack.role("people", "arn:aws:iam::111122223333:root", allow_invoke(api))
    pool = ministack.identity_pool(user, role)
    config = person(front, user) + f"""
[auth.iam]
kind = "sigv4"
region = "{REGION}"
credentials = {{ identity_pool = {{ id = "{pool}", login = "person", endpoint = "{front.url}" }} }}
""" + route(front, api, "iam")
    secrets = [PASSWORD]
    with start(config, environment(user), secrets) as address:
        answers = [call(address, "POST", "/orders/42?a=1", b"tea")[0] for _ in range(20)]
        secrets += [request.header("x-amz-security-token") for request in api_calls(front, api)]
    assert answers == [200] * 20 and len(backend.reached) == 20
    assert asked(front) == ["USER_SRP_AUTH", "RespondToAuthChallenge", "GetId", "GetCredentialsForIdentity"]
    for request in front.noted:
        if (request.header("x-amz-target") or "").endswith("ForIdentity"):
            (provider, token), = json.loads(request.body)["Logins"].items()
            assert provider == f"cognito-idp.{REGION}.amazonaws.com/{user.pool_id}"
            assert claims(token)["token_use"] == "id"
    for request in api_calls(front, api):
        assert "Credential=ASIA" in request.header("authorization")
