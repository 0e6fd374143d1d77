"""How many calls a thousand requests cost: the least there can be, whatever the kind of credential.

All kinds run in one countersign, from its first moment on, so the requests come while nothing is there yet. Each kind has
its own wire to the emulator that it asks, where each call is noted; the API notes whose signature or token came.
"""

import collections
import contextlib
import json
import re
import socket
import threading
import urllib.parse

from doubles import Agent, Imds, Issuer, Sts, bearer, route, running
from emulators import REGION, Front, Listener, Ministack, Moto, allow_assume
from test_cognito import PASSWORD, person
from test_secrets import ACCOUNT, READ, stored

REQUESTS, CALLERS = 1000, 4
LOGIN = ["InitiateAuth:USER_SRP_AUTH", "RespondToAuthChallenge:PASSWORD_VERIFIER"]

# What a thousand requests may cost. Two routes that share a login cost what one does.
EXPECTED = {
    "client-credentials": ["/oauth2/token"],
    "client-credentials, stored secret": ["GetSecretValue", "/oauth2/token"],
    "header field, stored": ["GetSecretValue"],
    "cognito-user, srp": LOGIN,
    "cognito-user, password": ["InitiateAuth:USER_PASSWORD_AUTH"],
    "cognito-user, admin-password": ["AdminInitiateAuth:ADMIN_USER_PASSWORD_AUTH"],
    "cognito-user, access and ID token of one login": LOGIN,
    "sigv4, environment": [],
    "sigv4, static": [],
    "sigv4, profile": [],
    "sigv4, container": ["GET /credentials"],
    "sigv4, instance": ["PUT /latest/api/token", "GET /latest/meta-data/iam/security-credentials/",
                        "GET /latest/meta-data/iam/security-credentials/instance-role"],
    "sigv4, web identity": ["AssumeRoleWithWebIdentity"],
    "sigv4, a role": ["AssumeRole"],
    "sigv4, a chain of two roles": ["AssumeRole", "AssumeRole"],
    "sigv4, identity pool, login": [*LOGIN, "GetId", "GetCredentialsForIdentity"],
    "sigv4, identity pool, unauthenticated": ["GetId", "GetCredentialsForIdentity"],
}


class Api(Listener):
    """Says 200, and notes who came: a plain reader, since it is asked twenty thousand times."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0))
        self.requests = collections.Counter()  # by path
        self.owners = collections.defaultdict(set)  # path -> key ids, tokens, API keys

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def serve(self, connection):
        for head in heads(connection):
            path = head.split(b" ", 2)[1].decode()
            owner = re.search(rb"(?im)^(?:authorization: (?:AWS4-HMAC-SHA256 Credential=([^/]+)|Bearer (\S+))|x-api-key: (\S+))", head)
            with self._lock:
                self.requests[path] += 1
                self.owners[path].add(next(filter(None, owner.groups())) if owner else None)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def heads(connection):
    """Messages without a body, until the peer closes."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    held = b""
    while True:
        while b"\r\n\r\n" not in held:
            piece = connection.recv(65536)
            if not piece:
                return
            held += piece
        head, _, held = held.partition(b"\r\n\r\n")
        yield head


def ask(address, paths, count, answers, lock):
    """`count` requests on one connection, to each path in turn."""
    with socket.create_connection(address, timeout=60) as connection:
        mine = collections.Counter()
        answered = heads(connection)
        for number in range(count):
            connection.sendall(f"GET {paths[number % len(paths)]} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            mine[next(answered).split(b" ", 2)[1].decode()] += 1
    with lock:
        answers.update(mine)


def operation(request):
    """What a call is called in the table."""
    target = request.header("x-amz-target")
    if target:
        called, body = target.rpartition(".")[2], json.loads(request.body)
        detail = body.get("AuthFlow") or body.get("ChallengeName")
        return f"{called}:{detail}" if detail else called
    if b"Action=" in request.body:
        return dict(urllib.parse.parse_qsl(request.body.decode()))["Action"]
    return request.target if request.method == "POST" else f"{request.method} {request.target}"


class World:
    """Each kind: its config, the paths of its routes, and the wires on which its calls are seen."""

    def __init__(self, stack, folder):
        for name in ("ministack", "moto"):
            (folder / name).mkdir()
        self.stack, self.folder = stack, folder
        self.ministack = stack.enter_context(Ministack(folder / "ministack"))
        self.moto = stack.enter_context(Moto(folder / "moto"))
        self.api = stack.enter_context(Api())
        self.config, self.environment, self.secrets = "", {}, [PASSWORD]
        self.paths, self.wires = {}, {}

    def wire(self, emulator):
        return self.stack.enter_context(Front(emulator.port))

    def add(self, kind, config, paths, *wires):
        self.config += config
        self.paths[kind], self.wires[kind] = [f"/{path}" for path in paths], wires

    def calls(self, kind):
        seen = [call for wire in self.wires[kind] for call in (wire.noted if isinstance(wire, Front) else wire.calls)]
        return [operation(call) for call in seen]

    def clients(self):
        key = self.moto.user("reader", READ)
        self.environment |= {"READER_ID": key.id, "READER_SECRET": key.secret, "CLIENT_SECRET": "client-0123456789"}
        self.secrets += [key.secret, "client-0123456789"]
        for name in ("client-secret", "api-key"):
            self.moto.client("secretsmanager").create_secret(Name=name, SecretString="client-0123456789")
        issuer = self.stack.enter_context(Issuer("client-0123456789"))
        self.add("client-credentials", bearer("client", issuer, '{ env = "CLIENT_SECRET" }', self.api), ["client"], issuer)
        issuer, store = self.stack.enter_context(Issuer("client-0123456789")), self.wire(self.moto)
        secret = stored('secretsmanager = "client-secret"', store)
        self.add("client-credentials, stored secret", bearer("stored", issuer, secret, self.api), ["stored"], store, issuer)
        store = self.wire(self.moto)
        secret = stored('secretsmanager = "api-key"', store)
        self.add("header field, stored",
                 route("field", self.api, "none", f"request_headers.set = {{ x-api-key = {secret} }}"), ["field"], store)

    def logins(self):
        flows = ["ALLOW_USER_SRP_AUTH", "ALLOW_USER_PASSWORD_AUTH", "ALLOW_ADMIN_USER_PASSWORD_AUTH"]
        user = self.ministack.pool_user("exuser", PASSWORD, ExplicitAuthFlows=flows)
        admin = self.ministack.user("admin", {"Effect": "Allow", "Action": "cognito-idp:Admin*", "Resource": "*"})
        self.environment |= admin.environment() | {"PASSWORD": PASSWORD}
        self.secrets += admin.secrets()
        for flow, lines in (("srp", ""), ("password", 'flow = "password"'),
                            ("admin-password", 'flow = "admin-password"\ncredentials = "environment"')):
            front = self.wire(self.ministack)
            config = person(front, user, lines).replace("auth.person", f"auth.{flow}") + route(flow, self.api)
            self.add(f"cognito-user, {flow}", config, [flow], front)
        front = self.wire(self.ministack)
        config = "".join(person(front, user, f'token = "{token}"').replace("auth.person", f"auth.{token}") +
                         route(token, self.api) for token in ("access", "id"))
        self.add("cognito-user, access and ID token of one login", config, ["access", "id"], front)

        role = self.ministack.role("people", "arn:aws:iam::111122223333:root", {
            "Effect": "Allow", "Action": "execute-api:Invoke", "Resource": "*"})
        pool, front = self.ministack.identity_pool(user, role), self.wire(self.ministack)
        self.add("sigv4, identity pool, login",
                 person(front, user).replace("auth.person", "auth.pool-login") + self.sigv4("pool", (
                     f'{{ identity_pool = {{ id = "{pool}", login = "pool-login", endpoint = "{front.url}" }} }}')),
                 ["pool"], front)
        cognito, front = self.ministack.client("cognito-identity"), self.wire(self.ministack)
        guests = cognito.create_identity_pool(IdentityPoolName="guests", AllowUnauthenticatedIdentities=True)["IdentityPoolId"]
        cognito.set_identity_pool_roles(IdentityPoolId=guests, Roles={"unauthenticated": role})
        self.add("sigv4, identity pool, unauthenticated",
                 self.sigv4("guest", f'{{ identity_pool = {{ id = "{guests}", endpoint = "{front.url}" }} }}'), ["guest"], front)

    def sigv4(self, name, credentials, lines=""):
        return f'[auth.{name}]\nkind = "sigv4"\nregion = "{REGION}"\ncredentials = {credentials}\n{lines}\n' + \
            route(name, self.api)

    def signatures(self):
        agent, imds, sts = (self.stack.enter_context(kind()) for kind in (Agent, Imds, Sts))
        shared, token = self.folder / "credentials", self.folder / "token"
        shared.write_text("[staging]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = profile-0123456789\n")
        token.write_text("eyJ.token-of-a-pod.sig")
        self.environment |= {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{agent.url}/credentials",
            "AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url,
            "AWS_SHARED_CREDENTIALS_FILE": str(shared),
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": f"arn:aws:iam::{ACCOUNT}:role/pod",
            "AWS_ENDPOINT_URL_STS": sts.url,
        }
        self.secrets += ["profile-0123456789", "eyJ.token-of-a-pod.sig"]
        self.add("sigv4, environment", self.sigv4("environment", '"environment"'), ["environment"])
        self.add("sigv4, static", self.sigv4("static", (
            '{ static = { access_key_id = { env = "READER_ID" }, secret_access_key = { env = "READER_SECRET" } } }')), ["static"])
        self.add("sigv4, profile", self.sigv4("profile", '{ profile = "staging" }'), ["profile"])
        self.add("sigv4, container", self.sigv4("container", '"container"'), ["container"], agent)
        self.add("sigv4, instance", self.sigv4("instance", '"instance"'), ["instance"], imds)
        self.add("sigv4, web identity", self.sigv4("pod", '"web-identity"'), ["pod"], sts)

        hub, far = (f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("hub", "far"))
        key = self.moto.user("app", allow_assume(hub), allow_assume(far))
        self.moto.role("hub", f"arn:aws:iam::{ACCOUNT}:user/app", allow_assume(far))
        self.moto.role("far", "*", READ)
        self.environment |= {"APP_ID": key.id, "APP_SECRET": key.secret}
        self.secrets += key.secrets()
        base = '{ static = { access_key_id = { env = "APP_ID" }, secret_access_key = { env = "APP_SECRET" } } }'
        front = self.wire(self.moto)
        self.add("sigv4, a role", self.sigv4("role", base, f'assume_role = {{ arn = "{hub}", endpoint = "{front.url}" }}'),
                 ["role"], front)
        front = self.wire(self.moto)
        roles = ", ".join(f'{{ arn = "{arn}", endpoint = "{front.url}" }}' for arn in (hub, far))
        self.add("sigv4, a chain of two roles", self.sigv4("chain", base, f"assume_role = [{roles}]"), ["chain"], front)


def test_a_thousand_requests_of_each_kind_cost_the_least_possible_number_of_calls(tmp_path, capsys):
    with contextlib.ExitStack() as stack:
        world = World(stack, tmp_path)
        world.clients()
        world.logins()
        world.signatures()
        assert sorted(world.paths) == sorted(EXPECTED)
        answers, lock = {kind: collections.Counter() for kind in EXPECTED}, threading.Lock()
        # Not waited for until it is ready: a request that comes while a login is under way must join it.
        with running(tmp_path, world.config, world.environment, world.secrets, ready=False) as sidecar:
            callers = [threading.Thread(target=ask, daemon=True, args=(
                sidecar.proxy, world.paths[kind], REQUESTS // CALLERS, answers[kind], lock))
                for kind in EXPECTED for _ in range(CALLERS)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join(90)
            said = sidecar.readiness()[1]
        calls = {kind: world.calls(kind) for kind in EXPECTED}
        with capsys.disabled():
            print(f"\n\n| kind of credential | requests | calls | which |\n| --- | --- | --- | --- |")
            for kind, made in calls.items():
                which = ", ".join(f"{name} ×{count}" if count > 1 else name for name, count in collections.Counter(made).items())
                print(f"| {kind} | {sum(answers[kind].values())} | {len(made)} | {which or 'none'} |")
        for kind, paths in world.paths.items():
            assert answers[kind] == {"200": REQUESTS}, (kind, answers[kind], said)
            assert sum(world.api.requests[path] for path in paths) == REQUESTS, kind
            for path in paths:
                assert len(world.api.owners[path]) == 1 and None not in world.api.owners[path], (kind, world.api.owners[path])
        assert calls == EXPECTED
