"""Stand-ins for AWS: ministack, moto, the network in front of them, a container's credential endpoint, an API's backend.

`Ministack` and `Moto` are other people's code and do the verifying: signatures, tokens, scopes, trust policies. `Front`
stands on the wire before them, plain or TLS, and notes every request as it arrived; it forwards the bytes it got. Nothing here
knows how countersign signs. Everything binds loopback or the link-local address it is given, and ends what it started
by pid.

What ministack does not check (region and service of the scope), the tests check on the requests a `Front` has noted.
"""

import dataclasses
import http.server
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import botocore.config
import botocore.session

REGION = "ap-northeast-1"
# ministack treats a 12-digit access key id, "test", and its own AWS_ACCESS_KEY_ID as the account's root and does *not*
# check their signatures. They serve to set things up; what countersign is given is always minted by create_access_key.
HOME_ACCOUNT = "111122223333"
PARTNER_ACCOUNT = "210987654321"
START_DEADLINE = 30.0  # seconds; ministack answers after 0.3 s on two idle cores
EXCHANGE_DEADLINE = 15.0  # seconds of silence on one socket before a double gives up


# A proxy variable of the machine's, there for the package registries, is not for loopback.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclasses.dataclass(frozen=True)
class AccessKey:
    """Credentials a signer can use; `token` is None for an IAM user's key."""

    id: str
    secret: str
    token: str | None = None

    def environment(self):
        """The variables of the default chain's first source."""
        variables = {"AWS_ACCESS_KEY_ID": self.id, "AWS_SECRET_ACCESS_KEY": self.secret}
        return variables | ({"AWS_SESSION_TOKEN": self.token} if self.token else {})

    def secrets(self):
        """What must never be printed."""
        return [self.secret] + ([self.token] if self.token else [])


@dataclasses.dataclass(frozen=True)
class AppClient:
    """A machine-to-machine app client of a user pool."""

    pool_id: str
    pool_arn: str
    id: str
    secret: str


@dataclasses.dataclass(frozen=True)
class PoolUser:
    """A user of a user pool, and the app client it logs in through; `secret` is None where that has none."""

    pool_id: str
    pool_arn: str
    id: str
    secret: str | None
    name: str
    password: str


@dataclasses.dataclass(frozen=True)
class Api:
    """A deployed API. `path` is its stage as a path prefix: "" for an HTTP API's $default stage."""

    id: str
    account: str
    stage: str

    @property
    def path(self):
        return "" if self.stage == "$default" else f"/{self.stage}"

    def local_host(self, port):
        """The one name, apart from registered domains, under which ministack's data plane answers."""
        return f"{self.id}.execute-api.localhost:{port}"


class Ministack:
    """One ministack process on a free loopback port, as a context manager."""

    def __init__(self, directory):
        self._directory = pathlib.Path(directory)
        self._process = None
        self.port = None

    def __enter__(self):
        # The port is chosen here because ministack cannot bind port 0: it builds its own JWKS URL from GATEWAY_PORT.
        self.port = free_port()
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        environment |= {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "AUTH": "true",
            "MINISTACK_REGION": REGION,
            "MINISTACK_ACCOUNT_ID": HOME_ACCOUNT,
            "TMPDIR": str(self._directory),
            "STATE_DIR": str(self._directory / "state"),
            "S3_DATA_DIR": str(self._directory / "s3"),
            # Listeners on fixed ports (8883 for IoT), which would collide with a second test run.
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
        }
        self._log = open(self._directory / "ministack.log", "wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            env=environment, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def _wait_until_it_answers(self):
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ministack ended with {self._process.returncode}:\n{self.log()}")
            try:
                with DIRECT.open(f"{self.url}/_ministack/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError(f"ministack did not answer within {START_DEADLINE} s:\n{self.log()}")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def log(self):
        return (self._directory / "ministack.log").read_text(errors="replace")[-4000:]

    def client(self, service, account=HOME_ACCOUNT, key=None):
        """A botocore client: of the account's root, or of `key`."""
        key = key or AccessKey(account, "root-signatures-are-not-checked")
        return botocore.session.Session().create_client(
            service, region_name=REGION, endpoint_url=self.url,
            aws_access_key_id=key.id, aws_secret_access_key=key.secret, aws_session_token=key.token,
            config=botocore.config.Config(proxies={}),
        )

    def app_client(self, scope, domain=None):
        """A user pool with one resource server and one client that may ask for `scope` ("orders/read")."""
        cognito = self.client("cognito-idp")
        identifier, _, name = scope.rpartition("/")
        pool = cognito.create_user_pool(PoolName=identifier)["UserPool"]
        if domain:
            cognito.create_user_pool_domain(Domain=domain, UserPoolId=pool["Id"])
        cognito.create_resource_server(
            UserPoolId=pool["Id"], Identifier=identifier, Name=identifier,
            Scopes=[{"ScopeName": name, "ScopeDescription": name}],
        )
        client = cognito.create_user_pool_client(
            UserPoolId=pool["Id"], ClientName=f"{identifier}-caller", GenerateSecret=True,
            AllowedOAuthFlows=["client_credentials"], AllowedOAuthScopes=[scope],
            AllowedOAuthFlowsUserPoolClient=True,
        )["UserPoolClient"]
        return AppClient(pool["Id"], pool["Arn"], client["ClientId"], client["ClientSecret"])

    def pool_user(self, name, password, permanent=True, **client):
        """A user pool with one user and one app client, made with these settings."""
        cognito = self.client("cognito-idp")
        pool = cognito.create_user_pool(PoolName="people", MfaConfiguration="OFF")["UserPool"]
        made = cognito.create_user_pool_client(
            UserPoolId=pool["Id"], ClientName="login",
            **{"ExplicitAuthFlows": ["ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]} | client,
        )["UserPoolClient"]
        cognito.admin_create_user(UserPoolId=pool["Id"], Username=name, TemporaryPassword=password,
                                  MessageAction="SUPPRESS")
        if permanent:
            cognito.admin_set_user_password(UserPoolId=pool["Id"], Username=name, Password=password, Permanent=True)
        return PoolUser(pool["Id"], pool["Arn"], made["ClientId"], made.get("ClientSecret"), name, password)

    def identity_pool(self, user, role_arn):
        """The id of an identity pool whose users, those of `user`'s pool, act as this role."""
        cognito = self.client("cognito-identity")
        pool_id = cognito.create_identity_pool(
            IdentityPoolName="people", AllowUnauthenticatedIdentities=False,
            CognitoIdentityProviders=[{
                "ProviderName": f"cognito-idp.{REGION}.amazonaws.com/{user.pool_id}", "ClientId": user.id,
            }],
        )["IdentityPoolId"]
        cognito.set_identity_pool_roles(IdentityPoolId=pool_id, Roles={"authenticated": role_arn})
        return pool_id

    def user(self, name, *statements):
        """An IAM user with one access key, allowed what the statements say and nothing else."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        if statements:
            iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy(*statements))
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return AccessKey(made["AccessKeyId"], made["SecretAccessKey"])

    def role(self, name, principal, *statements, account=HOME_ACCOUNT, external_id=None):
        """A role's ARN. `principal` may assume it, with `external_id` if one is given."""
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": principal}}
        if external_id:
            trust["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
        iam = self.client("iam", account)
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))["Role"]
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=policy(*statements))
        return role["Arn"]

    def session(self, key, role_arn):
        """Temporary credentials and their expiry, as an agent of ECS would have them."""
        made = self.client("sts", key=key).assume_role(RoleArn=role_arn, RoleSessionName="agent")["Credentials"]
        return AccessKey(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"]), made["Expiration"]

    def iam_api(self, backend, account=HOME_ACCOUNT):
        """A REST API, every method of it AWS_IAM."""
        return self._rest_api(backend, account, {"authorizationType": "AWS_IAM"})

    def cognito_api(self, backend, client, scope):
        """A REST API whose Cognito authorizer wants an access token with `scope`."""
        def method(apigateway, api_id):
            authorizer = apigateway.create_authorizer(
                restApiId=api_id, name="pool", type="COGNITO_USER_POOLS", providerARNs=[client.pool_arn],
                identitySource="method.request.header.Authorization",
            )
            return {"authorizationType": "COGNITO_USER_POOLS", "authorizerId": authorizer["id"],
                    "authorizationScopes": [scope]}
        return self._rest_api(backend, HOME_ACCOUNT, method)

    def jwt_api(self, backend, client, scope=None, stage="$default"):
        """An HTTP API whose JWT authorizer wants this client's token, with `scope` if one is given."""
        apigateway = self.client("apigatewayv2")
        api_id = apigateway.create_api(Name="jwt", ProtocolType="HTTP")["ApiId"]
        authorizer = apigateway.create_authorizer(
            ApiId=api_id, AuthorizerType="JWT", Name="pool", IdentitySource=["$request.header.Authorization"],
            JwtConfiguration={
                "Audience": [client.id],
                "Issuer": f"https://cognito-idp.{REGION}.amazonaws.com/{client.pool_id}",
            },
        )["AuthorizerId"]
        integration = apigateway.create_integration(
            ApiId=api_id, IntegrationType="HTTP_PROXY", IntegrationMethod="ANY",
            IntegrationUri=backend.url, PayloadFormatVersion="1.0",  # ministack appends the request's path
        )["IntegrationId"]
        apigateway.create_route(
            ApiId=api_id, RouteKey="ANY /{proxy+}", Target=f"integrations/{integration}", AuthorizationType="JWT",
            AuthorizerId=authorizer, AuthorizationScopes=[scope] if scope else [],
        )
        apigateway.create_stage(ApiId=api_id, StageName=stage, AutoDeploy=True)
        return Api(api_id, HOME_ACCOUNT, stage)

    def _rest_api(self, backend, account, method):
        apigateway = self.client("apigateway", account)
        api_id = apigateway.create_rest_api(name="rest")["id"]
        root = apigateway.get_resources(restApiId=api_id)["items"][0]["id"]
        resource = apigateway.create_resource(restApiId=api_id, parentId=root, pathPart="{proxy+}")["id"]
        if callable(method):
            method = method(apigateway, api_id)
        here = {"restApiId": api_id, "resourceId": resource, "httpMethod": "ANY"}
        apigateway.put_method(**here, **method, requestParameters={"method.request.path.proxy": True})
        apigateway.put_integration(
            **here, type="HTTP_PROXY", integrationHttpMethod="ANY", uri=f"{backend.url}/{{proxy}}",
            requestParameters={"integration.request.path.proxy": "method.request.path.proxy"},
        )
        apigateway.create_deployment(restApiId=api_id, stageName="prod")
        return Api(api_id, account, "prod")

    def answer_to(self, host, api):
        """Serve `api` under `host` too, stage in the path: what amazonaws.com does with execute-api names.

        ministack's own names have 8 hex digits and end in .localhost; a custom domain with a root mapping and no stage
        behaves like the real name, and the signature is checked over the Host that arrived. The domain must be of the
        account that the caller's credentials are of.
        """
        apigateway = self.client("apigateway", api.account)
        apigateway.create_domain_name(domainName=host)
        apigateway.create_base_path_mapping(domainName=host, restApiId=api.id)


class Moto:
    """One moto process on a loopback port of its choice, as a context manager: Secrets Manager, Systems Manager, STS, IAM.

    Once it is entered, every call's signature, policy and trust policy is checked; `admin` may do everything.
    """

    def __init__(self, directory):
        self._directory = pathlib.Path(directory)
        self._process = None
        self.port = None
        self.admin = None

    def __enter__(self):
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        # An unsigned call counts as not checked, so setting up begins with checks that start later.
        environment |= {"INITIAL_NO_AUTH_ACTION_COUNT": "1000000", "PYTHONUNBUFFERED": "1"}
        self._log = open(self._directory / "moto.log", "wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            env=environment, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )
        try:
            self._wait_until_it_listens()
            self.admin = AccessKey("AKIABEFOREITCHECKS00", "not-checked-yet")
            self.admin = self.user("admin", {"Effect": "Allow", "Action": "*", "Resource": "*"})
            begin = urllib.request.Request(f"{self.url}/moto-api/reset-auth", b"0", {"content-type": "text/plain"})
            DIRECT.open(begin, timeout=10).close()
        except BaseException:
            self.__exit__()
            raise
        return self

    __exit__ = Ministack.__exit__

    def _wait_until_it_listens(self):
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"moto ended with {self._process.returncode}:\n{self.log()}")
            if listening := re.search(r"Running on http://127\.0\.0\.1:(\d+)", self.log()):
                self.port = int(listening[1])
                return
            time.sleep(0.05)
        raise RuntimeError(f"moto did not listen within {START_DEADLINE} s:\n{self.log()}")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def log(self):
        return (self._directory / "moto.log").read_text(errors="replace")[-4000:]

    def client(self, service, key=None):
        """A botocore client: of the administrator, or of `key`."""
        key = key or self.admin
        return botocore.session.Session().create_client(
            service, region_name=REGION, endpoint_url=self.url,
            aws_access_key_id=key.id, aws_secret_access_key=key.secret, aws_session_token=key.token,
            config=botocore.config.Config(proxies={}),
        )

    def user(self, name, *statements):
        """An IAM user with one access key, allowed what the statements say and nothing else."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy(*statements))
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return AccessKey(made["AccessKeyId"], made["SecretAccessKey"])

    def role(self, name, principal, *statements, external_id=None):
        """A role's ARN. `principal` may assume it, with `external_id` if one is given."""
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": principal}}
        if external_id:
            trust["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
        iam = self.client("iam")
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))["Role"]
        iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=policy(*statements))
        return role["Arn"]


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow_invoke(api):
    """May call this API and no other."""
    return {"Effect": "Allow", "Action": "execute-api:Invoke",
            "Resource": f"arn:aws:execute-api:{REGION}:{api.account}:{api.id}/{api.stage}/*"}


def allow_assume(role_arn):
    return {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": role_arn}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclasses.dataclass(frozen=True)
class Noted:
    """A request as it stood on the wire."""

    name: str | None  # the TLS server name; None on plain TCP
    method: str
    target: str
    headers: tuple  # (lower-case name, value), in order
    body: bytes

    def header(self, name):
        values = [value for given, value in self.headers if given == name]
        assert len(values) <= 1, f"{name} occurs {len(values)} times"
        return values[0] if values else None

    def signing_scope(self):
        """("20261121", "ap-northeast-1", "execute-api", "aws4_request"): ministack takes any region and service."""
        credential = self.header("authorization").split("Credential=", 1)[1].split(",", 1)[0]
        return tuple(credential.split("/")[1:])


class Listener:
    """A threaded listener. An exception on a connection is kept and raised when the double is left."""

    def __init__(self, address, tls=None):
        self._socket = socket.create_server(address)
        self._tls = tls
        self._lock = threading.Lock()
        self._open = set()
        self._failures = []
        self._closing = False
        self.port = self._socket.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind, *_):
        self._closing = True
        # shutdown wakes the thread that is blocked in accept; close alone does not.
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()
        with self._lock:
            for connection in self._open:
                connection.close()
        if kind is None and self._failures:
            raise AssertionError(f"{type(self).__name__} failed on a connection") from self._failures[0]

    def _accept(self):
        while not self._closing:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection):
        try:
            connection.settimeout(EXCHANGE_DEADLINE)
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with self._lock:
                self._open.add(connection)
            self.serve(connection)
        except (ssl.SSLError, ConnectionError, TimeoutError):
            pass  # the client's doing: it went away, or refuses our certificate; the test sees the missing answer
        except Exception as failure:  # noqa: BLE001 - kept for __exit__
            if not self._closing:
                self._failures.append(failure)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def serve(self, connection):
        raise NotImplementedError


class Front(Listener):
    """Notes each request and forwards its bytes to the upstream that `choose(server name)` gives, a loopback port.

    One request per connection: "Connection: close" is the only line it adds, to the request and to the answer. So it
    needs no response parser, and the signed bytes reach the verifier as countersign wrote them.
    """

    def __init__(self, choose, address=("127.0.0.1", 0), tls=None):
        super().__init__(address, tls)
        self._choose = choose if callable(choose) else lambda _: choose
        self._noted = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def noted(self):
        with self._lock:
            return list(self._noted)

    def serve(self, connection):
        name = getattr(connection, "asked_for", None)
        stream = connection.makefile("rb")
        head = read_head(stream)
        if not head:
            return  # a connection opened ahead of need
        method, target, headers = parse_head(head)
        raw_body, body = read_body(stream, headers)
        noted = Noted(name, method, target, tuple(headers), body)
        with self._lock:
            self._noted.append(noted)
        # One connection carries one name here, and API Gateway refuses a Host that is not the SNI (docs/aws.md A6).
        if name is not None and noted.header("host") != name:
            connection.sendall(b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self._choose(name)), timeout=EXCHANGE_DEADLINE) as upstream:
            upstream.sendall(closing(head) + raw_body)
            answer = upstream.makefile("rb")
            connection.sendall(closing(read_head(answer)))
            while piece := answer.read1(65536):
                connection.sendall(piece)
        if isinstance(connection, ssl.SSLSocket):
            connection.unwrap()  # close_notify: without it the end of the body looks like a cut


def read_head(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline(65536)
        if not line:
            return b""
        head += line
    return head


def parse_head(head):
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    pairs = (line.split(":", 1) for line in lines)
    return method, target, [(name.lower(), value.strip()) for name, value in pairs]


def read_body(stream, headers):
    """The body as sent and as meant: equal but for chunked framing."""
    fields = dict(headers)
    if "chunked" not in fields.get("transfer-encoding", ""):
        body = stream.read(int(fields.get("content-length", 0)))
        return body, body
    raw, meant = b"", b""
    while True:
        line = stream.readline()
        size = int(line.split(b";")[0], 16)
        chunk = stream.read(size + 2)
        raw += line + chunk
        if not size:
            return raw, meant
        meant += chunk[:-2]


def closing(head):
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"keep-alive:"))]
    return b"\r\n".join(lines[:-2] + [b"Connection: close", b"", b""])


class Backend:
    """What stands behind the APIs: it is reached only by a request that ministack let through."""

    def __init__(self):
        backend = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                length = int(self.headers.get("content-length") or 0)
                request = Noted(None, self.command, self.path,
                                tuple((name.lower(), value) for name, value in self.headers.items()),
                                self.rfile.read(length))
                backend.reached.append(request)
                body = json.dumps({"backend": "reached", "method": self.command, "path": self.path,
                                   "body": request.body.decode()}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.reached = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class ContainerCredentials:
    """The credential endpoint of ECS (`path` alone) or of EKS Pod Identity (`path`, and a token in Authorization)."""

    def __init__(self, address, path, key, expiration, token=None):
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                endpoint.asked.append(self.path)
                if self.path != path or self.headers.get("authorization") != token:
                    return self.send_error(403 if self.path == path else 404)
                body = json.dumps({
                    "AccessKeyId": key.id, "SecretAccessKey": key.secret, "Token": key.token,
                    "Expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.asked = []
        self._server = http.server.ThreadingHTTPServer(address, Handler)

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
