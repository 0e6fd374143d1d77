"""The configs of the README, run as they stand there, against APIs that check what they are sent.

Each runs in a namespace (netns.py) where the names in the config are ours: the token endpoint, STS and the APIs are
ministack behind TLS on port 443, and the agent that hands out container credentials is at its real address. A config
gets environment variables and nothing else. A test here that fails is a README that does not work.
"""

import contextlib
import json
import os
import pathlib
import re
import shlex
import ssl
import subprocess
import tempfile
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.exceptions
import botocore.session
import pytest
import trustme

import netns
from emulators import (
    HOME_ACCOUNT,
    PARTNER_ACCOUNT,
    REGION,
    AccessKey,
    Backend,
    ContainerCredentials,
    Front,
    Ministack,
    allow_assume,
    allow_invoke,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = pathlib.Path(os.environ.get("COUNTERSIGN_README", ROOT / "README.md"))
COUNTERSIGN = os.environ.get("COUNTERSIGN", str(ROOT / "target/release/countersign"))

NAMES = ("m2m-body", "m2m-basic", "iam-keys", "container-role", "pool-login", "cross-account",
         "stored-secret")
STS = f"sts.{REGION}.amazonaws.com"
USER_POOLS = f"cognito-idp.{REGION}.amazonaws.com"
IDENTITY_POOLS = f"cognito-identity.{REGION}.amazonaws.com"
SECRETS_MANAGER = f"secretsmanager.{REGION}.amazonaws.com"
SCOPE = "orders/read"
EXTERNAL_ID = "orders-team"
SESSION_NAME = "countersign"
ROLE_NAME = "api_gateway_invoke_role"
READY_DEADLINE = 15.0  # seconds from start to ready; a credential takes one exchange with ministack
NAMESPACE_DEADLINE = 40  # seconds for one config, world and all; about 3 are needed


# What the README says.

def blocks():
    """Config name to (its text, the words of the curl line after it)."""
    found = re.findall(r"^```toml\n(# config: (\S+)\n.*?)^```\n(.*?)(?=^```toml\n|\Z)",
                       README.read_text(), re.MULTILINE | re.DOTALL)
    curl = {name: re.search(r"^curl .*$", rest, re.MULTILINE) for _, name, rest in found}
    return {name: (text, shlex.split(curl[name].group()) if curl[name] else None) for text, name, _ in found}


def upstream_host(text):
    (route,) = tomllib.loads(text)["route"]
    return urllib.parse.urlsplit(route["upstream"]).hostname


def curl(words):
    """The request of a README's curl line. Only what those lines use is understood."""
    words, body = words[1:], None
    if "-d" in words:
        at = words.index("-d")
        body = words[at + 1].encode()
        del words[at:at + 2]
    (url,) = words
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=20) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read(), answer.headers


# The tests.

def test_the_readme_has_these_configs_and_a_curl_line_for_each():
    found = blocks()
    assert sorted(found) == sorted(NAMES)
    for name, (text, words) in found.items():
        assert words, f"{name}: no curl line after the config"
        assert 8 <= len(text.splitlines()) <= 20, f"{name}: a config that a reader takes in at once"
        tomllib.loads(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_readme_config_passes_check(name, tmp_path, countersign):
    file = tmp_path / "countersign.toml"
    file.write_text(blocks()[name][0])
    environment = {"ORDERS_CLIENT_ID": "141ko0tsl9qpba05m4p19179m2", "ORDERS_CLIENT_SECRET": "not-a-secret-0123456789",
                   "ORDERS_USER_POOL_ID": f"{REGION}_AtRsMFTq0", "ORDERS_PASSWORD": "not-a-password-0123456789",
                   "ORDERS_IDENTITY_POOL_ID": f"{REGION}:0d5f3c1e-7a0b-4f43-9d2e-2f6f0c5b7e11"}
    done = subprocess.run([countersign, "check", "--config", str(file)], env=bare() | environment,
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr
    for secret in ("ORDERS_CLIENT_SECRET", "ORDERS_PASSWORD"):
        assert environment[secret] not in done.stdout + done.stderr


def test_the_names_of_the_readme_lead_to_apis_that_check_what_they_are_sent():
    netns.run_inside(the_world_refuses_what_it_should, timeout=NAMESPACE_DEADLINE)


@pytest.mark.parametrize("name, source", [
    ("m2m-body", "environment"),
    ("m2m-basic", "environment"),
    ("iam-keys", "environment"),
    ("iam-keys", "profile"),
    ("container-role", "ecs"),
    ("container-role", "eks"),
    ("pool-login", "environment"),
    ("cross-account", "environment"),
    ("stored-secret", "environment"),
])
def test_a_readme_config_reaches_its_api_as_it_stands_there(name, source, countersign):
    netns.run_inside(config_reaches_its_api, name, source, timeout=NAMESPACE_DEADLINE)


@pytest.fixture(scope="module")
def countersign():
    if not os.access(COUNTERSIGN, os.X_OK):
        pytest.fail(f"no binary at {COUNTERSIGN}: build it, or name it in COUNTERSIGN", pytrace=False)
    return COUNTERSIGN


# Everything below runs inside the namespace.

class World:
    """The names of the README, each led to what it should be. Left with everything ended."""

    def __init__(self, stack, directory):
        self.directory = pathlib.Path(directory)
        self.hosts = {name: upstream_host(text) for name, (text, _) in blocks().items()}
        self.token_host = urllib.parse.urlsplit(
            tomllib.loads(blocks()["m2m-body"][0])["auth"]["orders"]["token_url"]).hostname
        served = {self.token_host, STS, USER_POOLS, IDENTITY_POOLS, SECRETS_MANAGER, *self.hosts.values()}
        netns.settle(sorted(served), addresses=(netns.ECS_AGENT, netns.EKS_AGENT))

        self.ministack = stack.enter_context(Ministack(self.directory))
        self.backend = stack.enter_context(Backend())
        authority = trustme.CA()
        self.ca = self.directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.front = stack.enter_context(
            Front(self.ministack.port, ("127.0.0.1", 443), tls_for(authority, sorted(served))))

        self.app = self.ministack.app_client(SCOPE, domain=self.token_host.split(".")[0])
        apis = {
            "m2m-body": self.ministack.cognito_api(self.backend, self.app, SCOPE),
            "m2m-basic": self.ministack.jwt_api(self.backend, self.app, SCOPE),
            "iam-keys": self.ministack.iam_api(self.backend),
            "cross-account": self.ministack.iam_api(self.backend, PARTNER_ACCOUNT),
        }
        for name, api in apis.items():
            self.ministack.answer_to(self.hosts[name], api)
        iam_api, partner_api = apis["iam-keys"], apis["cross-account"]
        self.role = f"arn:aws:iam::{PARTNER_ACCOUNT}:role/{ROLE_NAME}"
        read = {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": "*"}
        self.key = self.ministack.user("orders", allow_invoke(iam_api), allow_assume(self.role), read)
        self.ministack.client("secretsmanager").create_secret(
            Name="prod/orders", SecretString=json.dumps({"client_secret": self.app.secret}))
        made = self.ministack.role(ROLE_NAME, f"arn:aws:iam::{HOME_ACCOUNT}:user/orders", allow_invoke(partner_api),
                                   account=PARTNER_ACCOUNT, external_id=EXTERNAL_ID)
        assert made == self.role, made
        self.user = self.ministack.pool_user("exuser", "Correct-Horse-4711")
        people = self.ministack.role("people", f"arn:aws:iam::{HOME_ACCOUNT}:root", allow_invoke(iam_api))
        self.identity_pool = self.ministack.identity_pool(self.user, people)
        # What ECS does before a container starts: its agent takes on the task role and hands out the session.
        task_role = f"arn:aws:iam::{HOME_ACCOUNT}:role/task"
        agent = self.ministack.user("agent", allow_assume(task_role))
        self.ministack.role("task", f"arn:aws:iam::{HOME_ACCOUNT}:user/agent", allow_invoke(iam_api))
        self.task, self.task_expiry = self.ministack.session(agent, task_role)

    def secrets(self):
        return [self.app.secret, self.user.password, *self.key.secrets(), *self.task.secrets()]

    def noted_for(self, host):
        return [request for request in self.front.noted if request.name == host]


def tls_for(authority, names):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    authority.issue_cert(*names).configure_cert(context)

    def note(connection, name, _):
        connection.asked_for = name

    context.sni_callback = note
    return context


def bare():
    """The environment of a program that was given nothing."""
    return {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | {"HOME": "/nonexistent"}


def config_reaches_its_api(name, source):
    """One config: ready, its curl line answered by the API's backend twice, one credential fetched, nothing leaked."""
    text, words = blocks()[name]
    with contextlib.ExitStack() as stack:
        world = World(stack, stack.enter_context(tempfile.TemporaryDirectory()))
        variables, agent = given(world, stack, name, source)
        config = world.directory / "countersign.toml"
        config.write_text(text)
        environment = bare() | {"SSL_CERT_FILE": str(world.ca)} | variables

        online = subprocess.run([COUNTERSIGN, "check", "--online", "--config", str(config)], env=environment,
                                capture_output=True, text=True, timeout=20)
        printed = online.stdout + online.stderr
        assert online.returncode == 0, f"check --online: {printed}"
        before = len(world.front.noted), len(agent.asked) if agent else 0

        log = world.directory / "countersign.log"
        with running([COUNTERSIGN, "run", "--config", str(config)], environment, log):
            for _ in range(2):
                status, body, headers = curl(words)
                assert status == 200, f"{status} {dict(headers)} {body}\n{log.read_text()}"
                assert json.loads(body)["backend"] == "reached", body
        printed += log.read_text()

        noted = world.front.noted[before[0]:]
        calls = [request for request in noted if request.name == world.hosts[name]]
        credential_calls = [request for request in noted if request not in calls]
        asked = agent.asked[before[1]:] if agent else []
        assert len(calls) == len(world.backend.reached) == 2, noted
        target = urllib.parse.urlsplit(words[1])
        for call in calls:
            assert call.target.endswith(target.path + (f"?{target.query}" if target.query else "")), call.target
        CHECKS[name](world, calls, credential_calls, asked)
        sent = [call.header("x-amz-security-token") or call.header("authorization").split(" ")[-1] for call in calls]
        leaked = [secret for secret in {*world.secrets(), *sent} if secret in printed]
        assert not leaked, f"{len(leaked)} secrets in what countersign printed"


def given(world, stack, name, source):
    """The environment variables for a config, and the agent's endpoint if the credential comes from one."""
    if name.startswith("m2m"):
        return {"ORDERS_CLIENT_ID": world.app.id, "ORDERS_CLIENT_SECRET": world.app.secret}, None
    if name == "stored-secret":
        return {"ORDERS_CLIENT_ID": world.app.id} | world.key.environment(), None
    if name == "pool-login":
        return {"ORDERS_USER_POOL_ID": world.user.pool_id, "ORDERS_CLIENT_ID": world.user.id,
                "ORDERS_PASSWORD": world.user.password, "ORDERS_IDENTITY_POOL_ID": world.identity_pool}, None
    if source == "environment":
        return world.key.environment(), None
    if source == "profile":
        file = world.directory / "credentials"
        file.write_text(f"[orders]\naws_access_key_id = {world.key.id}\naws_secret_access_key = {world.key.secret}\n")
        return {"AWS_PROFILE": "orders", "AWS_SHARED_CREDENTIALS_FILE": str(file)}, None
    # A key in the environment that must lose against the container's role: it may not call this API.
    stray = AccessKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY").environment()
    if source == "ecs":
        path = "/v2/credentials/4d9c1a3e-7a0b-4f43-9d2e-2f6f0c5b7e11"
        agent = ContainerCredentials((netns.ECS_AGENT, 80), path, world.task, world.task_expiry)
        return stray | {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": path}, stack.enter_context(agent)
    token = world.directory / "eks-pod-identity-token"
    token.write_text("eks-token-0123456789")
    agent = ContainerCredentials((netns.EKS_AGENT, 80), "/v1/credentials", world.task, world.task_expiry,
                                 token="eks-token-0123456789")
    return stray | {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{netns.EKS_AGENT}/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
    }, stack.enter_context(agent)


@contextlib.contextmanager
def running(command, environment, log):
    """The proxy, from ready until it has ended by itself after SIGTERM."""
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + READY_DEADLINE
        while not ready():
            assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"not ready after {READY_DEADLINE} s:\n{log.read_text()}"
            time.sleep(0.05)
        yield
        process.terminate()
        assert process.wait(30) == 0, f"ended with {process.returncode}:\n{log.read_text()}"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def ready():
    """The configs name no [admin], so this is its default address."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:9901/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


# What each API must have been sent, beyond that it said yes.

def check_m2m(world, calls, token_calls, scheme):
    (token_call,) = token_calls
    assert (token_call.name, token_call.method, token_call.target) == (world.token_host, "POST", "/oauth2/token")
    for call in calls:
        value = call.header("authorization")
        assert value.startswith(scheme), "not the scheme"
        assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", value[len(scheme):]), "not the token alone"
    form = dict(urllib.parse.parse_qsl(token_call.body.decode(), strict_parsing=True))
    assert (form["grant_type"], form["scope"]) == ("client_credentials", SCOPE), sorted(form)
    return token_call, form


def check_m2m_body(world, calls, token_calls, _):
    token_call, form = check_m2m(world, calls, token_calls, "")
    assert token_call.header("authorization") is None
    assert (form["client_id"], form["client_secret"]) == (world.app.id, world.app.secret)


def check_m2m_basic(world, calls, token_calls, _):
    token_call, form = check_m2m(world, calls, token_calls, "Bearer ")
    assert token_call.header("authorization").startswith("Basic ")
    assert "client_secret" not in form


def check_stored_secret(world, calls, credential_calls, _):
    (read,) = [call for call in credential_calls if call.name == SECRETS_MANAGER]
    assert read.header("x-amz-target") == "secretsmanager.GetSecretValue"
    assert json.loads(read.body) == {"SecretId": "prod/orders"}
    assert read.signing_scope()[1:] == (REGION, "secretsmanager", "aws4_request")
    check_m2m_basic(world, calls, [call for call in credential_calls if call is not read], None)


def check_signed(calls, key_id):
    for call in calls:
        assert call.signing_scope()[1:] == (REGION, "execute-api", "aws4_request")
        assert key_id is None or f"Credential={key_id}/" in call.header("authorization")


def check_iam_keys(world, calls, credential_calls, _):
    assert credential_calls == []
    check_signed(calls, world.key.id)
    assert all(call.header("x-amz-security-token") is None for call in calls)
    assert [call.method for call in calls] == ["POST", "POST"]


def check_container_role(world, calls, credential_calls, asked):
    assert credential_calls == [] and len(asked) == 1, asked
    check_signed(calls, world.task.id)
    assert all(call.header("x-amz-security-token") == world.task.token for call in calls)


def check_pool_login(world, calls, credential_calls, _):
    called = [(call.name, call.header("x-amz-target").rpartition(".")[2]) for call in credential_calls]
    assert called == [(USER_POOLS, "InitiateAuth"), (USER_POOLS, "RespondToAuthChallenge"), (IDENTITY_POOLS, "GetId"),
                      (IDENTITY_POOLS, "GetCredentialsForIdentity")], called
    login = json.loads(credential_calls[0].body)
    assert login["AuthFlow"] == "USER_SRP_AUTH" and world.user.password.encode() not in credential_calls[1].body
    (provider,) = json.loads(credential_calls[3].body)["Logins"]
    assert provider == f"{USER_POOLS}/{world.user.pool_id}"
    check_signed(calls, None)
    assert all(call.header("x-amz-security-token") for call in calls)
    assert [call.method for call in calls] == ["POST", "POST"]


def check_cross_account(world, calls, sts_calls, _):
    (sts_call,) = sts_calls
    form = dict(urllib.parse.parse_qsl(sts_call.body.decode(), strict_parsing=True))
    assert sts_call.name == STS and sts_call.signing_scope()[1:] == (REGION, "sts", "aws4_request")
    assert (form["Action"], form["RoleArn"], form["ExternalId"], form["RoleSessionName"]) == (
        "AssumeRole", world.role, EXTERNAL_ID, SESSION_NAME)
    check_signed(calls, None)
    assert all(call.header("x-amz-security-token") for call in calls)


CHECKS = {
    "m2m-body": check_m2m_body,
    "m2m-basic": check_m2m_basic,
    "iam-keys": check_iam_keys,
    "container-role": check_container_role,
    "pool-login": check_pool_login,
    "cross-account": check_cross_account,
    "stored-secret": check_stored_secret,
}


def the_world_refuses_what_it_should():
    """Without countersign: what makes a 200 in the tests above worth something."""
    with contextlib.ExitStack() as stack:
        world = World(stack, stack.enter_context(tempfile.TemporaryDirectory()))
        trust = ssl.create_default_context(cafile=str(world.ca))

        def send(url, body=None, headers=None):
            try:
                request = urllib.request.Request(url, data=body, headers=headers or {})
                with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as answer:
                return answer.code, answer.read()

        def signed(host, key, sent_path=None, sent_body=None, **headers):
            """A POST signed by botocore; the path and body sent are those signed unless given."""
            path, body = "/prod/orders/42?expand=lines", b"tea"
            request = botocore.awsrequest.AWSRequest(
                "POST", f"https://{host}{path}", data=body, headers={"host": host})
            credentials = botocore.credentials.Credentials(key.id, key.secret, key.token)
            botocore.auth.SigV4Auth(credentials, "execute-api", REGION).add_auth(request)
            status, answer = send(
                f"https://{host}{sent_path or path}", sent_body or body, dict(request.headers) | headers)
            return status, answer.decode()

        iam, partner = world.hosts["iam-keys"], world.hosts["cross-account"]
        for answer in (signed(iam, world.key), signed(iam, world.task)):
            assert answer[0] == 200, answer
        for tampered in (
            signed(iam, world.key, sent_path="/prod/orders/43?expand=lines"),
            signed(iam, world.key, sent_path="/prod/orders/42?expand=none"),
            signed(iam, world.key, sent_body=b"tee"),
            signed(iam, AccessKey(world.key.id, "wrong" * 8)),
            signed(iam, world.key, **{"x-amz-date": "20260101T000000Z"}),
        ):
            assert tampered[0] == 403 and "signature" in tampered[1].lower(), tampered
        assert send(f"https://{iam}/prod/orders/42")[0] == 403, "unsigned"
        assert signed(partner, world.key)[0] == 403, "the other account's API without its role"

        sts = botocore.session.Session().create_client(
            "sts", region_name=REGION, endpoint_url=f"https://{STS}", verify=str(world.ca),
            aws_access_key_id=world.key.id, aws_secret_access_key=world.key.secret)

        def assume(**external_id):
            made = sts.assume_role(RoleArn=world.role, RoleSessionName=SESSION_NAME, **external_id)["Credentials"]
            return AccessKey(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])

        answer = signed(partner, assume(ExternalId=EXTERNAL_ID))
        assert answer[0] == 200, answer
        for external_id in ({"ExternalId": "wrong-team"}, {}):
            try:
                assume(**external_id)
            except botocore.exceptions.ClientError as refused:
                assert refused.response["Error"]["Code"] == "AccessDenied", refused
            else:
                raise AssertionError(f"the role was given to {external_id}")

        def token(secret):
            form = {"grant_type": "client_credentials", "scope": SCOPE,
                    "client_id": world.app.id, "client_secret": secret}
            status, answer = send(f"https://{world.token_host}/oauth2/token", urllib.parse.urlencode(form).encode())
            return status, json.loads(answer)

        assert token("wrong")[0] == 400
        status, answer = token(world.app.secret)
        assert status == 200, answer
        good = answer["access_token"]
        # Another signature: the last character carries padding bits, so one from the middle of it is changed.
        forged = good[:-20] + ("A" if good[-20] != "A" else "B") + good[-19:]
        for name in ("m2m-body", "m2m-basic"):
            api = f"https://{world.hosts[name]}{'/prod' if name == 'm2m-body' else ''}/orders/42"
            assert send(api, headers={"authorization": good})[0] == 200
            assert send(api, headers={"authorization": forged})[0] == 401
            assert send(api)[0] == 401
        assert len(world.backend.reached) == 5, [request.target for request in world.backend.reached]
