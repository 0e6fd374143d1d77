"""Secrets and keys that are replaced on disk while requests flow: none of them fails, and the new ones are soon in use.

Each file is replaced in the ways that files are: written over, renamed over, and by the symbolic link of a Kubernetes
volume. The gateway verifies every signature with botocore and awscrt, and knows both keys, as IAM does during a rotation.

A rotation is mostly waiting, for the next look at a file or the next renewal; so all of them run at the same time.
"""

import contextlib
import json
import secrets

import pytest

from conftest import route as gateway_route
from doubles import Flow, Issuer, Sts, Together, Upstream, bearer, key_id, route, running
from emulators import REGION, Backend, Front, Ministack
from gateway import Gateway, Keys
from test_cognito import PASSWORD, asked, person
from test_ministack import route as api_route

LOOK = 5.0  # seconds between two looks at a file
WITHIN = LOOK + 3.0


def in_place(path, text):
    path.write_text(text)


def by_rename(path, text):
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


def by_link(path, text):
    """As a kubelet does: the file is a link through `..data`, and `..data` is what moves."""
    folder = path.parent
    version = folder / f"..{secrets.token_hex(4)}"
    version.mkdir()
    for link in folder.iterdir():
        if link.is_symlink() and link.name != "..data":
            (version / link.name).write_text(link.read_text())
    (version / path.name).write_text(text)
    swap(folder, version)
    if not path.is_symlink():
        path.symlink_to(f"..data/{path.name}")


def swap(folder, version):
    (folder / "..data_tmp").symlink_to(version.name)
    (folder / "..data_tmp").replace(folder / "..data")


WAYS = {"in-place": in_place, "rename": by_rename, "link": by_link}


def new_keys():
    return Keys("AKIA" + secrets.token_hex(8).upper(), "secret/" + secrets.token_hex(20), "token/" + secrets.token_hex(30))


rotation = Together()


@contextlib.contextmanager
def verifying(folder, *keys):
    """A gateway that knows these keys; its roots are in `ca.pem`."""
    gateway = Gateway()
    gateway.keys = {known.access_key_id: known for known in keys}
    gateway.ca.cert_pem.write_to_path(folder / "ca.pem")
    try:
        yield gateway
    finally:
        gateway.close()
    assert gateway.failures == []


def used(gateway):
    """The key ids that signed, in the order of their first use."""
    authorizations = [seen.values("authorization")[0].decode() for seen in list(gateway.seen)]
    return list(dict.fromkeys(text.partition("Credential=")[2].partition("/")[0] for text in authorizations))


@rotation.add
def a_client_secret_and_an_api_key_are_replaced_in_every_way(tmp_path):
    """Tokens live 10 s, the shortest there is."""
    old, new = "old-secret-0123456789", "new-secret-0123456789"
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream())
        issuers, config = {}, ""
        for way, replace in WAYS.items():
            (tmp_path / way).mkdir()
            for name in ("client-secret", "api-key"):
                replace(tmp_path / way / name, f"{old}-{name}")
            issuers[way] = stack.enter_context(Issuer(f"{old}-client-secret", lifetime=10))
            config += bearer(way, issuers[way], f'{{ file = "{tmp_path / way / "client-secret"}" }}', upstream)
            config += route(f"{way}-key", upstream, "none",
                            f'request_headers.set = {{ x-api-key = {{ file = "{tmp_path / way / "api-key"}" }} }}')
        keys = {f"{old}-api-key", f"{new}-api-key"}
        upstream.judge = lambda call: call.header("x-api-key") in keys or any(
            issuer.judge(call) for issuer in issuers.values())
        sidecar = stack.enter_context(running(tmp_path, config, {}, [old, new]))
        flows = {path: stack.enter_context(Flow(sidecar, f"/{path}", callers=1))
                 for way in WAYS for path in (way, f"{way}-key")}
        for issuer in issuers.values():
            issuer.until(lambda: issuer.tokens, "the first token")
        upstream.until(lambda: all(upstream.to(f"/{path}") for path in flows), "a request to each")
        for way, replace in WAYS.items():
            issuers[way].accepted = {f"{new}-client-secret"}
            for name in ("client-secret", "api-key"):
                replace(tmp_path / way / name, f"{new}-{name}\n")
        for way, issuer in issuers.items():
            upstream.until(lambda: upstream.to(f"/{way}-key")[-1].header("x-api-key") == f"{new}-api-key",
                           f"the new API key, replaced by {way}", within=WITHIN)
            # Refreshed after 6.5 to 8 s of 10; the new secret is read then, and the old one is not tried.
            issuer.until(lambda: issuer.served(f"{new}-client-secret"), f"a token for the new secret, {way}", within=10)
            assert issuer.presented == [f"{old}-client-secret", f"{new}-client-secret"]
        for path, flow in flows.items():
            assert list(flow.answers) == [200] and flow.answers[200] > 50, (path, flow.answers)


def static_keys_in_files_are_replaced(tmp_path, way):
    old, new = new_keys(), new_keys()
    folder = tmp_path / "keys"
    folder.mkdir()

    def write(keys, replace):
        parts = {"id": keys.access_key_id, "key": keys.secret_access_key, "token": keys.session_token}
        if way != "link":
            for name, text in parts.items():
                replace(folder / name, text)
            return
        # All three move at once.
        version = folder / f"..{keys.access_key_id}"
        version.mkdir()
        for name, text in parts.items():
            (version / name).write_text(text)
        swap(folder, version)
        for name in parts:
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")

    write(old, WAYS[way])
    files = {name: f'{{ file = "{folder / name}" }}' for name in ("id", "key", "token")}
    table = f"""
[upstream]
ca_file = "ca.pem"

[auth.iam]
kind = "sigv4"
region = "{REGION}"
credentials = {{ static = {{ access_key_id = {files["id"]}, secret_access_key = {files["key"]}, session_token = {files["token"]} }} }}
"""
    hidden = [secret for keys in (old, new) for secret in (keys.secret_access_key, keys.session_token)]
    with verifying(tmp_path, old, new) as gateway, \
            running(tmp_path, table + gateway_route(gateway, "/iam", "/prod", "iam"), {}, hidden) as sidecar:
        with Flow(sidecar, "/iam/orders", callers=1) as flow:
            sidecar.until(lambda: used(gateway) == [old.access_key_id], "the old key")
            write(new, WAYS[way])
            sidecar.until(lambda: new.access_key_id in used(gateway), "the new key", within=WITHIN)
        assert list(flow.answers) == [200], (flow.answers, gateway.seen[-1].complaints)
        assert used(gateway) == [old.access_key_id, new.access_key_id]


for way in WAYS:
    rotation.add(static_keys_in_files_are_replaced, way)


@rotation.add
def a_users_password_is_replaced_and_the_next_login_uses_it(tmp_path):
    """A login lives on by its refresh token; once that has ended, and the password is another, the new one is used."""
    new = "Another-Horse-4711"
    (tmp_path / "ministack").mkdir()
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    with Ministack(tmp_path / "ministack") as ministack, Backend() as backend, Front(ministack.port) as front:
        user = ministack.pool_user(
            "exuser", PASSWORD, AccessTokenValidity=10, IdTokenValidity=10,
            TokenValidityUnits={"AccessToken": "seconds", "IdToken": "seconds"},
            ExplicitAuthFlows=["ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"])
        api = ministack.jwt_api(backend, user, "aws.cognito.signin.user.admin")
        config = person(front, user).replace('{ env = "PASSWORD" }', f'{{ file = "{file}" }}') + api_route(front, api, "person")
        with running(tmp_path, config, {}, [PASSWORD, new]) as sidecar, Flow(sidecar, "/orders", callers=1) as flow:
            sidecar.until(lambda: flow.answers, "an answer")
            cognito = ministack.client("cognito-idp")
            cognito.admin_set_user_password(UserPoolId=user.pool_id, Username=user.name, Password=new, Permanent=True)
            cognito.admin_user_global_sign_out(UserPoolId=user.pool_id, Username=user.name)
            by_rename(file, new)
            login = ["USER_SRP_AUTH", "RespondToAuthChallenge"]
            sidecar.until(lambda: asked(front) == [*login, "REFRESH_TOKEN_AUTH", *login], "a login with the new password")
        assert list(flow.answers) == [200], flow.answers


def profile(name, keys):
    return (f"[{name}]\naws_access_key_id = {keys.access_key_id}\naws_secret_access_key = {keys.secret_access_key}\n"
            f"aws_session_token = {keys.session_token}\n")


@rotation.add
def the_credentials_file_of_the_home_directory_is_read_again_when_it_changes(tmp_path):
    """And one that is caught half-written is no reason to forget the keys that work."""
    old, new = new_keys(), new_keys()
    file = tmp_path / ".aws" / "credentials"
    file.parent.mkdir()
    file.write_text(profile("default", old))
    table = f'[upstream]\nca_file = "ca.pem"\n[auth.iam]\nkind = "sigv4"\nregion = "{REGION}"\n'
    hidden = [old.secret_access_key, new.secret_access_key]
    with verifying(tmp_path, old, new) as gateway, \
            running(tmp_path, table + gateway_route(gateway, "/iam", "/prod", "iam"), {}, hidden) as sidecar:
        with Flow(sidecar, "/iam/orders", callers=1) as flow:
            sidecar.until(lambda: used(gateway) == [old.access_key_id], "the old key")
            file.write_text(f"[default]\naws_access_key_id = {new.access_key_id}\n")
            sidecar.until_said("credential not refreshed", within=WITHIN)
            by_rename(file, profile("default", new))
            sidecar.until(lambda: new.access_key_id in used(gateway), "the new key", within=WITHIN)
        assert list(flow.answers) == [200], (flow.answers, gateway.seen[-1].complaints)
        assert used(gateway) == [old.access_key_id, new.access_key_id]


@rotation.add
def a_profiles_role_and_process_use_what_their_files_hold_at_each_renewal(tmp_path):
    """role_arn with source_profile: STS is called with the keys that the file has then. credential_process: run again."""
    old, new = new_keys(), new_keys()
    shared, config_file, output = tmp_path / "shared", tmp_path / "aws-config", tmp_path / "output"
    role = "arn:aws:iam::123456789012:role/orders"

    def process(keys, sts):
        # Sessions of 15 s, so that a renewal is due within 12 s.
        output.with_suffix(".new").write_text(json.dumps({
            "Version": 1, "AccessKeyId": keys.access_key_id, "SecretAccessKey": keys.secret_access_key,
            "SessionToken": keys.session_token, "Expiration": sts.end()}))
        output.with_suffix(".new").replace(output)

    with Sts(lifetime=15) as sts, Upstream(key_id) as upstream:
        shared.write_text(profile("base", old))
        process(old, sts)
        config_file.write_text(
            f"[profile orders]\nrole_arn = {role}\nsource_profile = base\nrole_session_name = orders\n"
            f"[profile tool]\ncredential_process = cat {output}\n")
        environment = {"AWS_SHARED_CREDENTIALS_FILE": str(shared), "AWS_CONFIG_FILE": str(config_file),
                       "AWS_ENDPOINT_URL_STS": sts.url}
        config = "".join(
            f'[auth.{name}]\nkind = "sigv4"\nregion = "{REGION}"\ncredentials = {{ profile = "{name}" }}\n' + route(name, upstream)
            for name in ("orders", "tool"))
        with running(tmp_path, config, environment, [old.secret_access_key, new.secret_access_key]) as sidecar, \
                Flow(sidecar, "/orders", callers=1) as orders, Flow(sidecar, "/tool", callers=1) as tool:
            upstream.until(lambda: upstream.to("/orders") and upstream.to("/tool"), "an answer each")
            assert sts.callers == [old.access_key_id]
            assert key_id(upstream.to("/tool")[0]) == old.access_key_id
            by_rename(shared, profile("base", new))
            process(new, sts)
            sts.until(lambda: new.access_key_id in sts.callers, "STS called with the new key")
            upstream.until(lambda: key_id(upstream.to("/tool")[-1]) == new.access_key_id, "the process run again")
        assert list(orders.answers) == list(tool.answers) == [200], (orders.answers, tool.answers)
        assert sts.callers == [old.access_key_id, new.access_key_id]
        sidecar.secrets |= set(sts.secrets())


@rotation.add
def a_dead_secret_is_sent_once_and_its_successor_ends_the_outage_within_seconds(tmp_path):
    file = tmp_path / "client-secret"
    file.write_text("dead-0123456789")
    with Issuer("alive-0123456789") as issuer, Upstream() as upstream:
        upstream.judge = issuer.judge
        with running(tmp_path, bearer("orders", issuer, f'{{ file = "{file}" }}', upstream), {},
                     ["dead-0123456789", "alive-0123456789"], ready=False) as sidecar:
            sidecar.until_answer("/orders", 503)
            issuer.until_calls(1)
            _, said = sidecar.readiness()
            assert "invalid_client" in said
            file.write_text("alive-0123456789\n")
            # A file is looked at every 5 s.
            issuer.until(lambda: issuer.served("alive-0123456789"), "a token for the new secret", within=8)
            sidecar.until_answer("/orders", 200, within=1)
        assert issuer.presented == ["dead-0123456789", "alive-0123456789"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    yield from rotation.run(tmp_path_factory.mktemp)


@pytest.mark.parametrize("name", rotation.functions)
def test_while_requests_flow(name, outcomes):
    outcomes[name].result()
