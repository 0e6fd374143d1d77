"""countersign against ministack, which checks tokens, signatures, scopes and trust policies with its own code.

Between the two stands a Front (emulators.py) that notes what was sent, so "once" and "nothing" are counted on the wire.
Each route's upstream keeps ministack's own name, `{api}.execute-api.localhost`, and is dialled at the Front.
"""

import concurrent.futures
import contextlib
import http.client
import json
import urllib.parse

import pytest

from conftest import Sidecar
from emulators import (
    HOME_ACCOUNT,
    PARTNER_ACCOUNT,
    REGION,
    AccessKey,
    Backend,
    Front,
    Ministack,
    allow_assume,
    allow_invoke,
)

SCOPE = "orders/read"
EXTERNAL_ID = "orders-team"


@pytest.fixture(scope="module")
def backend():
    with Backend() as backend:
        yield backend


@pytest.fixture(scope="module")
def ministack(tmp_path_factory):
    with Ministack(tmp_path_factory.mktemp("ministack")) as ministack:
        yield ministack


@pytest.fixture
def front(ministack, backend):
    backend.reached.clear()
    with Front(ministack.port) as front:
        yield front


@pytest.fixture(scope="module")
def app_client(ministack):
    return ministack.app_client(SCOPE)


@pytest.fixture(scope="module")
def cognito_api(ministack, backend, app_client):
    return ministack.cognito_api(backend, app_client, SCOPE)


@pytest.fixture(scope="module")
def jwt_api(ministack, backend, app_client):
    return ministack.jwt_api(backend, app_client, SCOPE)


@pytest.fixture(scope="module")
def iam_api(ministack, backend):
    return ministack.iam_api(backend)


@pytest.fixture(scope="module")
def key(ministack, iam_api):
    return ministack.user("orders", allow_invoke(iam_api))


@pytest.fixture(scope="module")
def partner(ministack, backend):
    """(API of another account, a role there that may call it, the key of a user here who may take that role on)."""
    api = ministack.iam_api(backend, PARTNER_ACCOUNT)
    role = f"arn:aws:iam::{PARTNER_ACCOUNT}:role/invoke"
    key = ministack.user("partner", allow_assume(role))
    assert role == ministack.role("invoke", f"arn:aws:iam::{HOME_ACCOUNT}:user/partner", allow_invoke(api),
                                  account=PARTNER_ACCOUNT, external_id=EXTERNAL_ID)
    return api, role, key


SETTINGS = """
[proxy]
listen = ["127.0.0.1:0"]

[admin]
listen = "127.0.0.1:0"

[log]
format = "json"
"""


class BeforeReady(Sidecar):
    """Up once it listens: whether a credential that was refused leaves it ready is not these tests' matter."""

    def _ready(self):
        return 200


@pytest.fixture
def start(tmp_path):
    """Runs countersign with a config and nothing but these variables; gives the address callers use.

    `secrets` may grow while it runs: they are looked for in the output at its end.
    """
    @contextlib.contextmanager
    def start(config, environment, secrets, ready=True):
        sidecar = (Sidecar if ready else BeforeReady)(tmp_path, SETTINGS + config, environment)
        try:
            yield sidecar.proxy
        finally:
            sidecar.secrets |= set(secrets)
            sidecar.stop()

    return start


def route(front, api, auth):
    return f"""
[[route]]
name = "orders"
upstream = "http://{api.local_host(front.port)}{api.path}"
connect_to = "127.0.0.1:{front.port}"
auth = "{auth}"
"""


def client_credentials(front, client, client_auth, scheme):
    return f"""
[auth.orders]
kind = "client-credentials"
token_url = "{front.url}/oauth2/token"
client_id = "{client.id}"
client_secret = {{ env = "ORDERS_CLIENT_SECRET" }}
client_auth = "{client_auth}"
scopes = ["{SCOPE}"]
scheme = "{scheme}"
"""


SIGV4_STATIC = f"""
[auth.iam]
kind = "sigv4"
region = "{REGION}"

[auth.iam.credentials.static]
access_key_id = {{ env = "ORDERS_KEY_ID" }}
secret_access_key = {{ env = "ORDERS_SECRET_KEY" }}
"""

SIGV4_ENVIRONMENT = f"""
[auth.iam]
kind = "sigv4"
region = "{REGION}"
credentials = "environment"
"""


def assumed(front, role, external_id):
    return f"""
[auth.iam]
kind = "sigv4"
region = "{REGION}"
credentials = "environment"

[auth.iam.assume_role]
arn = "{role}"
external_id = "{external_id}"
session_name = "countersign"
endpoint = "{front.url}"
"""


def call(address, method="GET", target="/orders/42", body=None):
    connection = http.client.HTTPConnection(*address, timeout=20)
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def token_calls(front):
    return [request for request in front.noted if request.target == "/oauth2/token"]


def api_calls(front, api):
    return [request for request in front.noted if request.header("host") == api.local_host(front.port)]


def test_a_token_got_with_the_secret_in_the_body_goes_raw_to_a_rest_api(start, front, cognito_api, app_client, backend):
    config = client_credentials(front, app_client, "body", "") + route(front, cognito_api, "orders")
    secrets = [app_client.secret]
    with start(config, {"ORDERS_CLIENT_SECRET": app_client.secret}, secrets) as address:
        status, _, body = call(address, "POST", "/orders/42?expand=lines", b'{"item":"tea"}')
        secrets += [request.header("authorization") for request in api_calls(front, cognito_api)]
    assert (status, json.loads(body)["body"]) == (200, '{"item":"tea"}'), body
    (asked,), (sent,) = token_calls(front), api_calls(front, cognito_api)
    form = dict(urllib.parse.parse_qsl(asked.body.decode(), strict_parsing=True))
    assert asked.header("authorization") is None
    assert (form["client_id"], form["client_secret"]) == (app_client.id, app_client.secret)
    assert sent.header("authorization").count(".") == 2 and " " not in sent.header("authorization")
    assert [request.target for request in backend.reached] == ["/orders/42?expand=lines"]


def test_a_token_got_with_basic_goes_as_bearer_to_an_http_api(start, front, jwt_api, app_client, backend):
    config = client_credentials(front, app_client, "basic", "Bearer") + route(front, jwt_api, "orders")
    with start(config, {"ORDERS_CLIENT_SECRET": app_client.secret}, [app_client.secret]) as address:
        status, _, body = call(address)
    assert status == 200, body
    (asked,), (sent,) = token_calls(front), api_calls(front, jwt_api)
    assert asked.header("authorization").startswith("Basic ") and b"client_secret" not in asked.body
    assert sent.header("authorization").startswith("Bearer ")
    assert len(backend.reached) == 1


def test_the_token_endpoint_is_asked_once_for_200_requests(start, front, jwt_api, app_client):
    config = client_credentials(front, app_client, "basic", "Bearer") + route(front, jwt_api, "orders")
    with start(config, {"ORDERS_CLIENT_SECRET": app_client.secret}, [app_client.secret]) as address:
        with concurrent.futures.ThreadPoolExecutor(16) as callers:
            answers = list(callers.map(lambda number: call(address, target=f"/orders/{number}")[0], range(200)))
    assert answers == [200] * 200
    assert len(token_calls(front)) == 1
    assert len(api_calls(front, jwt_api)) == 200


def test_a_wrong_client_secret_is_a_503_and_nothing_reaches_the_api(start, front, jwt_api, app_client, backend):
    config = client_credentials(front, app_client, "basic", "Bearer") + route(front, jwt_api, "orders")
    wrong = "wrong-secret-0123456789"
    with start(config, {"ORDERS_CLIENT_SECRET": wrong}, [wrong], ready=False) as address:
        status, headers, _ = call(address)
    assert (status, headers["x-countersign-error"]) == (503, "credential-unavailable")
    assert token_calls(front) and not api_calls(front, jwt_api) and not backend.reached


@pytest.mark.parametrize("method, target, body", [
    ("GET", "/orders/42", None),
    ("GET", "/orders/42?b=2&a=1&a=0&empty=&word=caf%C3%A9%20au%2Blait", None),
    ("POST", "/orders", b'{"item":"tea"}'),
    ("PUT", "/orders/a:b@c,d;e=f", bytes(range(32, 127)) * 700),
])
def test_a_request_signed_with_a_static_key_is_let_through(start, front, iam_api, key, backend, method, target, body):
    environment = {"ORDERS_KEY_ID": key.id, "ORDERS_SECRET_KEY": key.secret}
    with start(SIGV4_STATIC + route(front, iam_api, "iam"), environment, key.secrets()) as address:
        status, _, answer = call(address, method, target, body)
    assert status == 200, answer
    (sent,) = api_calls(front, iam_api)
    assert sent.signing_scope()[1:] == (REGION, "execute-api", "aws4_request")  # ministack does not look at it
    (reached,) = backend.reached
    assert (reached.method, reached.body) == (method, body or b"")


def test_the_apis_403_for_a_wrong_key_passes_through_unchanged(start, front, iam_api, key, backend):
    wrong = AccessKey(key.id, "wrong-secret-0123456789-0123456789-01234")
    config = SIGV4_ENVIRONMENT + route(front, iam_api, "iam")
    with start(config, wrong.environment(), wrong.secrets()) as address:
        status, headers, body = call(address)
    assert (status, headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")
    assert headers["x-countersign-error"] is None
    assert json.loads(body)["message"].startswith("The request signature we calculated does not match")
    assert not backend.reached


def test_a_key_without_the_permission_gets_the_apis_403(start, front, iam_api, ministack, partner, backend):
    _, _, stranger = partner
    config = SIGV4_ENVIRONMENT + route(front, iam_api, "iam")
    with start(config, stranger.environment(), stranger.secrets()) as address:
        status, headers, _ = call(address)
    assert (status, headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert not backend.reached


def test_a_role_of_another_account_is_taken_on_once_with_its_external_id(start, front, partner, backend):
    api, role, key = partner
    config = assumed(front, role, EXTERNAL_ID) + route(front, api, "iam")
    secrets = key.secrets()
    with start(config, key.environment(), secrets) as address:
        answers = [call(address, "POST", body=b"tea")[0] for _ in range(5)]
        secrets += [request.header("x-amz-security-token") for request in api_calls(front, api)]
    assert answers == [200] * 5 and len(backend.reached) == 5
    calls = api_calls(front, api)
    (sts_call,) = [request for request in front.noted if request not in calls]
    form = dict(urllib.parse.parse_qsl(sts_call.body.decode(), strict_parsing=True))
    assert (form["Action"], form["RoleArn"], form["ExternalId"]) == ("AssumeRole", role, EXTERNAL_ID)
    assert sts_call.signing_scope()[1:] == (REGION, "sts", "aws4_request")
    for request in calls:
        assert request.header("x-amz-security-token") and key.id not in request.header("authorization")


def test_a_wrong_external_id_is_a_503_and_nothing_reaches_the_api(start, front, partner, backend):
    api, role, key = partner
    config = assumed(front, role, "wrong-team") + route(front, api, "iam")
    with start(config, key.environment(), key.secrets(), ready=False) as address:
        status, headers, _ = call(address)
    assert (status, headers["x-countersign-error"]) == (503, "credential-unavailable")
    assert front.noted and not api_calls(front, api) and not backend.reached
