"""Secrets that AWS keeps, against moto, which checks the signature and the policies of every call.

The token endpoint is a double that takes only the secrets it is told to, so a rotation is one where the old secret is dead.
"""

import json
import urllib.parse
import urllib.request

import pytest

from doubles import Answer, Double, Fault, Flow, Issuer, Upstream, bearer, route, running
from emulators import DIRECT, REGION, AccessKey, Backend, Front, Ministack, Moto, allow_assume
from test_cognito import PASSWORD, person
from test_ministack import call
from test_ministack import route as api_route

READ = {"Effect": "Allow", "Action": ["secretsmanager:GetSecretValue", "ssm:GetParameter"], "Resource": "*"}
ACCOUNT = "123456789012"  # moto's


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    with Moto(tmp_path_factory.mktemp("moto")) as moto:
        yield moto


@pytest.fixture(scope="module")
def reader(moto):
    """A key that may read secrets and do nothing else."""
    return moto.user("reader", READ)


@pytest.fixture
def store(moto):
    with Front(moto.port) as front:
        yield front


@pytest.fixture
def upstream():
    with Upstream() as upstream:
        yield upstream


def environment(key):
    return {"READER_ID": key.id, "READER_SECRET": key.secret}


STATIC = ('credentials = { static = { access_key_id = { env = "READER_ID" }, '
          'secret_access_key = { env = "READER_SECRET" } } }')


def stored(what, store, region=f', region = "{REGION}"', more=""):
    """A secret in `store`, as TOML."""
    return f'{{ {what}{region}, endpoint = "{store.url}", {STATIC}{more} }}'


def reads(store):
    """What was read, in order."""
    return [next(iter(json.loads(request.body).values())) for request in store.noted if request.header("x-amz-target")]


def keep(moto, name, value):
    return moto.client("secretsmanager").create_secret(Name=name, SecretString=value)["ARN"]


def keep_parameter(moto, name, value):
    moto.client("ssm").put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)


def test_moto_checks_who_reads_a_secret(moto, reader):
    """Without countersign: what makes the reads below worth something."""
    keep(moto, "guarded", "s3cret-guarded")
    assert moto.client("secretsmanager", reader).get_secret_value(SecretId="guarded")["SecretString"] == "s3cret-guarded"
    stranger = moto.user("stranger", {"Effect": "Allow", "Action": "iam:ListUsers", "Resource": "*"})
    for key in (AccessKey(reader.id, "wrong" * 8), stranger):
        with pytest.raises(Exception, match="SignatureDoesNotMatch|signature|not authorized|AccessDenied"):
            moto.client("secretsmanager", key).get_secret_value(SecretId="guarded")


def test_a_client_secret_is_taken_from_a_member_a_text_an_arn_and_a_parameter(tmp_path, moto, reader, store, upstream):
    keep(moto, "prod/orders", json.dumps({"client_secret": "member-0123456789", "other": "other-0123456789"}))
    keep(moto, "plain", "plain-0123456789\n")
    arn = keep(moto, "by-arn", json.dumps({"pin": 4711471147114711}))
    keep_parameter(moto, "/orders/client-secret", "parameter-0123456789")
    secrets = ["member-0123456789", "plain-0123456789", "4711471147114711", "parameter-0123456789"]
    with Issuer(*secrets) as issuer:
        upstream.judge = issuer.judge
        config = "".join([
            bearer("member", issuer, stored('secretsmanager = "prod/orders", key = "client_secret"', store), upstream),
            bearer("plain", issuer, stored('secretsmanager = "plain"', store), upstream),
            bearer("arn", issuer, stored(f'secretsmanager = "{arn}", key = "pin"', store, region=""), upstream),
            bearer("parameter", issuer, stored('ssm = "/orders/client-secret"', store), upstream),
        ])
        with running(tmp_path, config, environment(reader), [*secrets, reader.secret, "other-0123456789"]) as sidecar:
            for name in ("member", "plain", "arn", "parameter"):
                assert [sidecar.get(f"/{name}")[0] for _ in range(3)] == [200] * 3
        assert sorted(issuer.presented) == sorted(secrets)
    assert sorted(reads(store)) == sorted(["prod/orders", "plain", arn, "/orders/client-secret"])
    for request in store.noted:
        service = "ssm" if "SSM" in request.header("x-amz-target") else "secretsmanager"
        assert request.signing_scope()[1:] == (REGION, service, "aws4_request")
        if service == "ssm":
            assert json.loads(request.body)["WithDecryption"] is True


@pytest.fixture
def broken_secrets(moto):
    keep(moto, "no-member", json.dumps({"hidden": "hidden-0123456789"}))
    keep(moto, "no-json", "hidden-text-0123456789")
    keep(moto, "a-list", json.dumps({"key": ["hidden-0123456789"]}))
    moto.client("secretsmanager").create_secret(Name="binary", SecretBinary=b"hidden-0123456789")


def test_a_secret_that_cannot_be_used_is_named_with_what_is_wrong_and_never_shown(
        tmp_path, moto, reader, store, upstream, broken_secrets):
    cases = {
        "missing": ('secretsmanager = "not-there"', 'secret "not-there" in Secrets Manager', "ResourceNotFoundException"),
        "member": ('secretsmanager = "no-member", key = "password"', 'secret "no-member"', 'it has no member "password"'),
        "text": ('secretsmanager = "no-json", key = "password"', 'secret "no-json"', "it is not a JSON object"),
        "list": ('secretsmanager = "a-list", key = "key"', 'secret "a-list"', 'its member "key" is not a string'),
        "binary": ('secretsmanager = "binary"', 'secret "binary"', "it is binary"),
        "parameter": ('ssm = "/not/there"', 'parameter "/not/there" in Systems Manager', "ParameterNotFound"),
    }
    with Issuer("good-0123456789") as issuer:
        config = "".join(bearer(name, issuer, stored(what, store), upstream) for name, (what, *_) in cases.items())
        config += bearer("good", issuer, '{ env = "GOOD" }', upstream)
        with running(tmp_path, config, environment(reader) | {"GOOD": "good-0123456789"},
                     [reader.secret, "hidden-0123456789", "hidden-text-0123456789", "aGlkZGVuLTAxMjM0NTY3ODk="]) as sidecar:
            for name in cases:
                status, headers = sidecar.get(f"/{name}")
                assert (status, headers["x-countersign-error"]) == (503, "credential-unavailable")
                assert int(headers["retry-after"]) >= 50, "a person has to act first, and each read is billed"
            assert sidecar.get("/good")[0] == 200
            _, said = sidecar.readiness()
            sidecar.assert_no_secret_in(said, "/readyz")
    lines = said.splitlines()
    for name, (_, which, problem) in cases.items():
        (line,) = [line for line in lines if f'credential "{name}"' in line]
        assert which in line and problem in line, line
    assert issuer.presented == ["good-0123456789"]


def test_a_secret_rotated_in_its_store_is_used_at_the_next_refresh_and_no_request_fails(
        tmp_path, moto, reader, store, upstream):
    keep(moto, "rotating", json.dumps({"secret": "first-0123456789"}))
    keep_parameter(moto, "/rotating", "first-0123456789")
    # 10 s is the shortest life a token may have; it is refreshed after 6.5 to 8 s.
    with Issuer("first-0123456789", lifetime=10) as one, Issuer("first-0123456789", lifetime=10) as two:
        upstream.judge = lambda call: one.judge(call) or two.judge(call)
        config = bearer("manager", one, stored('secretsmanager = "rotating", key = "secret"', store), upstream)
        config += bearer("parameter", two, stored('ssm = "/rotating"', store), upstream)
        with running(tmp_path, config, environment(reader), ["first-0123456789", "second-0123456789"]) as sidecar, \
                Flow(sidecar, "/manager") as manager, Flow(sidecar, "/parameter") as parameter:
            one.until(lambda: one.served("first-0123456789"), "the first token")
            two.until(lambda: two.served("first-0123456789"), "the first token")
            moto.client("secretsmanager").put_secret_value(
                SecretId="rotating", SecretString=json.dumps({"secret": "second-0123456789"}))
            keep_parameter(moto, "/rotating", "second-0123456789")
            one.accepted = two.accepted = {"second-0123456789"}
            one.until(lambda: one.served("second-0123456789"), "a token for the new secret")
            two.until(lambda: two.served("second-0123456789"), "a token for the new secret")
            assert sidecar.get("/manager")[0] == sidecar.get("/parameter")[0] == 200
        for flow in (manager, parameter):
            assert list(flow.answers) == [200] and flow.answers[200] > 50, flow.answers
        assert one.presented == two.presented == ["first-0123456789", "second-0123456789"]


def test_a_secret_rotated_between_reading_and_asking_is_read_once_more(tmp_path, moto, reader, store, upstream):
    keep(moto, "racing", "first-0123456789")
    with Issuer("second-0123456789") as issuer:
        upstream.judge = issuer.judge
        issuer.when_refusing = lambda: moto.client("secretsmanager").put_secret_value(
            SecretId="racing", SecretString="second-0123456789")
        config = bearer("orders", issuer, stored('secretsmanager = "racing"', store), upstream)
        with running(tmp_path, config, environment(reader), ["first-0123456789", "second-0123456789"]) as sidecar:
            assert sidecar.get("/orders")[0] == 200
            assert "no credential" not in sidecar.output
        assert issuer.presented == ["first-0123456789", "second-0123456789"]


def test_an_api_key_from_a_store_arrives_and_what_the_caller_sends_in_its_place_does_not(
        tmp_path, moto, reader, store, upstream):
    keep(moto, "usage-plan", json.dumps({"x-api-key": "api-key-0123456789"}))
    secret = stored('secretsmanager = "usage-plan", key = "x-api-key"', store)
    config = route("orders", upstream, "none", f"request_headers.set = {{ x-api-key = {secret}, x-team = \"blue\" }}")
    with running(tmp_path, config, environment(reader), ["api-key-0123456789", reader.secret]) as sidecar:
        assert sidecar.get("/orders")[0] == 200
        assert [call.header("x-api-key") for call in upstream.calls] == ["api-key-0123456789"]
        assert upstream.calls[0].header("x-team") == "blue"
    assert reads(store) == ["usage-plan"]


class Store(Double):
    """moto, behind what may fail."""

    def __init__(self, moto):
        super().__init__()
        self.moto = moto

    def reply(self, asked):
        request = urllib.request.Request(self.moto.url + asked.target, data=asked.body, headers=dict(asked.headers))
        with DIRECT.open(request, timeout=10) as answer:
            return Answer(200, answer.read())


def test_a_store_that_is_down_at_the_start_is_waited_for(tmp_path, moto, reader, upstream):
    keep(moto, "late", "late-0123456789")
    keep(moto, "late-key", "late-key-0123456789")

    with Store(moto) as store, Issuer("late-0123456789") as issuer:
        store.fault = Fault.RESET
        upstream.judge = lambda call: issuer.judge(call) or call.header("x-api-key") == "late-key-0123456789"
        config = bearer("orders", issuer, stored('secretsmanager = "late"', store), upstream)
        secret = stored('secretsmanager = "late-key"', store)
        config += route("key", upstream, "none", f"request_headers.set = {{ x-api-key = {secret} }}")
        with running(tmp_path, config, environment(reader), ["late-0123456789", "late-key-0123456789"],
                     ready=False) as sidecar:
            for path in ("/orders", "/key"):
                status, headers = sidecar.get(path)
                assert (status, headers["x-countersign-error"]) == (503, "credential-unavailable"), path
                assert int(headers["retry-after"]) >= 1
            _, said = sidecar.readiness()
            assert 'reading secret "late" in Secrets Manager' in said, said
            assert not issuer.calls and not upstream.calls
            store.fault = None
            sidecar.until_answer("/orders", 200, within=8)  # tries are 5 s apart at most
            sidecar.until_answer("/key", 200, within=8)


def test_a_users_password_from_a_store_logs_in_by_srp(tmp_path, moto, reader, store):
    keep(moto, "exuser", json.dumps({"password": PASSWORD}))
    (tmp_path / "ministack").mkdir()
    with Ministack(tmp_path / "ministack") as ministack, Backend() as backend, Front(ministack.port) as front:
        user = ministack.pool_user("exuser", PASSWORD)
        api = ministack.jwt_api(backend, user, "aws.cognito.signin.user.admin")
        config = person(front, user).replace('{ env = "PASSWORD" }', stored('secretsmanager = "exuser", key = "password"', store))
        config += api_route(front, api, "person")
        with running(tmp_path, config, environment(reader), [PASSWORD, reader.secret]) as sidecar:
            assert [call(sidecar.proxy)[0] for _ in range(3)] == [200] * 3
    assert reads(store) == ["exuser"]


@pytest.fixture(scope="module")
def chain(moto):
    """The key of a user who may take on a hub role and nothing else; the hub may take on the role that reads secrets."""
    hub, vault = (f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("hub", "vault"))
    key = moto.user("app", allow_assume(hub))
    moto.role("hub", f"arn:aws:iam::{ACCOUNT}:user/app", allow_assume(vault))
    moto.role("vault", f"arn:aws:sts::{ACCOUNT}:assumed-role/hub/countersign-secrets", READ, external_id="42")
    keep(moto, "in-the-vault", "vault-0123456789")
    return key, hub, vault


# Without spaces: moto verifies a form as it would have written it itself, with "+" for them.
POLICY = json.dumps({"Version": "2012-10-17", "Statement": [READ]}, separators=(",", ":"))


def test_a_store_is_read_as_the_last_role_of_a_chain(tmp_path, store, chain, upstream):
    key, hub, vault = chain
    roles = f""", assume_role = [
        {{ arn = "{hub}", endpoint = "{store.url}" }},
        {{ arn = "{vault}", external_id = "42", duration = "15m", tags = {{ team = "blue" }}, policy = '{POLICY}',
           policy_arns = ["arn:aws:iam::aws:policy/ReadOnlyAccess"], session_name = "vault@prod", endpoint = "{store.url}" }},
    ]"""
    secret = stored('secretsmanager = "in-the-vault"', store, more=" ".join(roles.split()))
    with Issuer("vault-0123456789") as issuer:
        upstream.judge = issuer.judge
        with running(tmp_path, bearer("orders", issuer, secret, upstream), environment(key),
                     ["vault-0123456789", key.secret], ready=False) as sidecar:
            sidecar.until_answer("/orders", 200)
            assert [sidecar.get("/orders")[0] for _ in range(20)] == [200] * 20
    first, second, read = store.noted
    forms = [dict(urllib.parse.parse_qsl(request.body.decode(), strict_parsing=True)) for request in (first, second)]
    assert [form["RoleArn"] for form in forms] == [hub, vault]
    assert forms[0]["RoleSessionName"] == "countersign-secrets" and "ExternalId" not in forms[0]
    assert {name: forms[1][name] for name in (
        "RoleSessionName", "ExternalId", "DurationSeconds", "Tags.member.1.Key", "Tags.member.1.Value", "Policy",
        "PolicyArns.member.1.arn")} == {
        "RoleSessionName": "vault@prod", "ExternalId": "42", "DurationSeconds": "900", "Tags.member.1.Key": "team",
        "Tags.member.1.Value": "blue", "Policy": POLICY, "PolicyArns.member.1.arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}
    # Each call is signed by who the one before made; moto has checked the signatures.
    ids = [request.header("authorization").partition("Credential=")[2].partition("/")[0] for request in store.noted]
    assert ids[0] == key.id and len(set(ids)) == 3
    assert [bool(request.header("x-amz-security-token")) for request in store.noted] == [False, True, True]


@pytest.mark.parametrize("external_id, last", [("43", "vault"), ("42", "hub")])
def test_a_chain_that_breaks_says_where(tmp_path, store, chain, upstream, external_id, last):
    """With the wrong external id, and with a chain that stops at a role that may not read."""
    key, hub, vault = chain
    roles = [f'{{ arn = "{hub}", endpoint = "{store.url}" }}']
    if last == "vault":
        roles.append(f'{{ arn = "{vault}", external_id = "{external_id}", endpoint = "{store.url}" }}')
    secret = stored('secretsmanager = "in-the-vault"', store, more=f", assume_role = [{', '.join(roles)}]")
    with Issuer("vault-0123456789") as issuer, \
            running(tmp_path, bearer("orders", issuer, secret, upstream), environment(key),
                    ["vault-0123456789", key.secret], ready=False) as sidecar:
        sidecar.until_answer("/orders", 503)
        _, said = sidecar.readiness()
        # moto's refusals have a form of their own, so their code is not to be read; AWS's say AccessDenied.
        where = f'credential "orders (store)": none; last try: STS, asked for role {vault}, refused' if last == "vault" \
            else 'credential "orders": none; last try: reading secret "in-the-vault" in Secrets Manager: '
        assert where in said, said
        assert not issuer.calls
