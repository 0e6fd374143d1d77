"""What a test scripts itself: token endpoints, STS, metadata endpoints and APIs whose answers change while it looks on.

Emulators give the right answer every time; these give the wrong one when they are told to, and note what they were asked.
A test waits for what it wants to see with `until`, which has a deadline. Everything binds the address it is given.
"""

import base64
import concurrent.futures
import contextlib
import dataclasses
import enum
import http.client
import http.server
import json
import secrets
import socket
import struct
import sys
import threading
import time
import urllib.parse
from collections import Counter
from datetime import UTC, datetime, timedelta

from conftest import Sidecar
from emulators import AccessKey, Noted

SOON = 20.0  # seconds until what a test waits for must have come; the longest wait that is planned is 8 s
SETTINGS = """
[proxy]
listen = ["127.0.0.1:0"]
drain_timeout = "100ms"

[admin]
listen = "127.0.0.1:0"

[log]
format = "json"
"""


class Fault(enum.Enum):
    """What a double does instead of answering."""

    SLOW = "slow"  # an answer after 3 s
    FAILING = "failing"  # 500
    RESET = "reset"  # the connection breaks before an answer
    GARBAGE = "garbage"  # 200 with something else
    HANG = "hang"  # no answer
    THROTTLED = "throttled"  # 429, come back in 30 s


@dataclasses.dataclass
class Answer:
    """What a double says."""

    status: int
    body: bytes
    headers: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def json(cls, status, value, **headers):
        return cls(status, json.dumps(value).encode(), {"content-type": "application/json"} | headers)


class Double:
    """An HTTP/1.1 server that notes what it is asked and says what `reply` gives, or does what `fault` says."""

    def __init__(self, address=("127.0.0.1", 0)):
        double = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1  # head and body in one piece

            def exchange(self):
                length = int(self.headers.get("content-length") or 0)
                fields = tuple((name.lower(), value) for name, value in self.headers.items())
                call = Noted(None, self.command, self.path, fields, self.rfile.read(length))
                with double.changed:
                    double.calls.append(call)
                    double.changed.notify_all()
                try:
                    answer = double.answer(call, self.connection)
                except ConnectionResetError:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in {"content-length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST = do_PUT = exchange

            def log_message(self, *_):
                pass

        self.calls: list[Noted] = []
        self.changed = threading.Condition()
        self.fault: Fault | None = None
        self.failures: list[BaseException] = []
        self._ended = threading.Event()
        self._server = http.server.ThreadingHTTPServer(address, Handler)
        self._server.daemon_threads = True
        self._server.handle_error = self._note_failure
        self.port = self._server.server_port

    @property
    def url(self):
        return f"http://{self._server.server_address[0]}:{self.port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind, *_):
        self._ended.set()
        self._server.shutdown()
        self._server.socket.close()
        if kind is None and self.failures:
            raise AssertionError(f"{type(self).__name__} failed on a call") from self.failures[0]

    def _note_failure(self, *_):
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):  # the peer's doing
            self.failures.append(error)

    def answer(self, call, connection):
        fault = self.fault_of(call)
        if fault is Fault.SLOW:
            self._ended.wait(3)
        elif fault is Fault.FAILING:
            return Answer(500, b"oops")
        elif fault is Fault.RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            raise ConnectionResetError
        elif fault is Fault.GARBAGE:
            return Answer(200, b"<html>not what you asked for</html>")
        elif fault is Fault.HANG:
            self._ended.wait()
            raise ConnectionResetError
        elif fault is Fault.THROTTLED:
            return Answer.json(429, {"code": "ThrottlingException"}, **{"retry-after": "30"})
        return self.reply(call)

    def fault_of(self, _call):
        return self.fault

    def reply(self, call):
        raise NotImplementedError

    def until(self, seen, what, within=SOON):
        """Waits until `seen()` holds; called again after each call that came."""
        with self.changed:
            assert self.changed.wait_for(seen, within), f"{what}: not within {within} s, after {len(self.calls)} calls"

    def until_calls(self, count, within=SOON):
        self.until(lambda: len(self.calls) >= count, f"{count} calls", within)


class Issuer(Double):
    """A token endpoint: takes the client secrets that are in `accepted`; each token is new and lives `lifetime` seconds."""

    def __init__(self, *accepted, lifetime=3600):
        super().__init__()
        self.accepted = set(accepted)
        self.lifetime = lifetime
        self.presented: list[str] = []  # secrets, in order
        self.tokens: dict[str, tuple[str, float]] = {}  # token -> the secret it was given for, its end
        self.when_refusing = lambda: None

    @property
    def token_url(self):
        return f"{self.url}/oauth2/token"

    def reply(self, call):
        form = dict(urllib.parse.parse_qsl(call.body.decode(), strict_parsing=True))
        basic = base64.b64decode((call.header("authorization") or "Basic ").split(" ", 1)[1]).decode()
        secret = urllib.parse.unquote_plus(basic.partition(":")[2]) or form.get("client_secret", "")
        with self.changed:
            self.presented.append(secret)
            self.changed.notify_all()
        if secret not in self.accepted:
            self.when_refusing()
            return Answer.json(400, {"error": "invalid_client"})
        token = secrets.token_urlsafe(40)
        with self.changed:
            self.tokens[token] = (secret, time.monotonic() + self.lifetime)
            self.changed.notify_all()
        return Answer.json(200, {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime})

    def judge(self, call):
        """Whether an API takes the token of this call."""
        scheme, _, token = (call.header("authorization") or "").partition(" ")
        return scheme == "Bearer" and token in self.tokens and time.monotonic() < self.tokens[token][1]

    def served(self, secret):
        return any(given == secret for given, _ in self.tokens.values())


class Upstream(Double):
    """An API. It says 200 to what `judge` takes, else 403."""

    def __init__(self, judge=lambda _call: True):
        super().__init__()
        self.judge = judge

    def reply(self, call):
        return Answer.json(200 if self.judge(call) else 403, {})

    def to(self, path):
        return [call for call in self.calls if call.target.startswith(path)]


class KeyServer(Double):
    """Hands out AWS keys: `keys(call)` says which. They end after `lifetime` seconds."""

    def __init__(self, address=("127.0.0.1", 0), lifetime=3600):
        super().__init__(address)
        self.lifetime = lifetime
        self.given: list[AccessKey] = []

    def new_key(self):
        key = AccessKey(f"ASIA{secrets.token_hex(8).upper()}", "secret/" + secrets.token_hex(20), secrets.token_hex(40))
        with self.changed:
            self.given.append(key)
            self.changed.notify_all()
        return key

    def end(self, seconds=None):
        return (datetime.now(UTC) + timedelta(seconds=self.lifetime if seconds is None else seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def secrets(self):
        return [secret for key in self.given for secret in key.secrets()]


class Agent(KeyServer):
    """The credential endpoint of ECS, or that of EKS Pod Identity where `token` gives what Authorization must say.

    The path chooses the fault, so that one address serves many tasks: `/slow/…`.
    """

    def __init__(self, *arguments, token=lambda: None, **more):
        super().__init__(*arguments, **more)
        self.token = token
        self.faults: dict[str, Fault] = {}

    def fault_of(self, call):
        return self.faults.get(call.target)

    def reply(self, call):
        if call.header("authorization") != self.token():
            return Answer.json(403, {"code": "AccessDenied", "message": "not the token"})
        key = self.new_key()
        return Answer.json(200, {
            "AccessKeyId": key.id, "SecretAccessKey": key.secret, "Token": key.token, "Expiration": self.end()})


class Imds(KeyServer):
    """The instance metadata service, version 2 alone: a call without a session token is a 401."""

    ROLE = "instance-role"

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.sessions: set[str] = set()

    def reply(self, call):
        if call.target == "/latest/api/token":
            if call.method != "PUT" or not 1 <= int(call.header("x-aws-ec2-metadata-token-ttl-seconds") or 0) <= 21600:
                return Answer(400, b"")
            session = secrets.token_hex(20)
            self.sessions.add(session)
            ttl = call.header("x-aws-ec2-metadata-token-ttl-seconds")
            return Answer(200, session.encode(), {"x-aws-ec2-metadata-token-ttl-seconds": ttl})
        if call.header("x-aws-ec2-metadata-token") not in self.sessions:
            return Answer(401, b"")
        prefix = "/latest/meta-data/iam/security-credentials"
        if call.target.startswith(f"{prefix}-extended"):
            return Answer(404, b"")
        if call.target.rstrip("/") == prefix:
            return Answer(200, self.ROLE.encode())
        if call.target != f"{prefix}/{self.ROLE}":
            return Answer(404, b"")
        key = self.new_key()
        return Answer.json(200, {
            "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "AccessKeyId": key.id,
            "SecretAccessKey": key.secret, "Token": key.token, "Expiration": self.end()})


class Sts(KeyServer):
    """AssumeRole and AssumeRoleWithWebIdentity.

    `refuse` maps a role's ARN to the error that it gets: (status, code). The sessions of roles in `ended` are over when they
    begin, and callers in `unknown` get what IAM says of keys that were deleted.
    """

    def __init__(self, **more):
        super().__init__(**more)
        self.refuse: dict[str, tuple[int, str]] = {}
        self.ended: set[str] = set()
        self.unknown: set[str] = set()
        self.forms: list[dict] = []
        self.callers: list[str | None] = []  # the access key ids that signed

    def reply(self, call):
        form = dict(urllib.parse.parse_qsl(call.body.decode(), strict_parsing=True))
        with self.changed:
            self.forms.append(form)
            self.callers.append(key_id(call))
            self.changed.notify_all()
        problem = (403, "InvalidClientTokenId") if key_id(call) in self.unknown else self.refuse.get(form["RoleArn"])
        if problem:
            status, code = problem
            return self._xml(status, "ErrorResponse", f"<Error><Type>Sender</Type><Code>{code}</Code>"
                             f"<Message>no</Message></Error><RequestId>1</RequestId>")
        key, action = self.new_key(), form["Action"]
        end = self.end(-60 if form["RoleArn"] in self.ended else self.lifetime)
        arn = form["RoleArn"].replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + "/" + form["RoleSessionName"]
        return self._xml(200, f"{action}Response", f"<{action}Result><Credentials>"
                         f"<AccessKeyId>{key.id}</AccessKeyId><SecretAccessKey>{key.secret}</SecretAccessKey>"
                         f"<SessionToken>{key.token}</SessionToken><Expiration>{end}</Expiration></Credentials>"
                         f"<AssumedRoleUser><AssumedRoleId>AROA:x</AssumedRoleId><Arn>{arn}</Arn></AssumedRoleUser>"
                         f"</{action}Result>")

    @staticmethod
    def _xml(status, name, inside):
        body = f'<{name} xmlns="https://sts.amazonaws.com/doc/2011-06-15/">{inside}</{name}>'
        return Answer(status, body.encode(), {"content-type": "text/xml"})


def key_id(call):
    """Whose signature a call carries; `None` where it carries none."""
    authorization = call.header("authorization") or ""
    return authorization.partition("Credential=")[2].partition("/")[0] or None


class Proxy(Sidecar):
    """A countersign that need not become ready."""

    wait_until_ready = True

    def _ready(self):
        return super()._ready() if self.wait_until_ready else 200

    def get(self, path, timeout=20):
        """Status and headers."""
        connection = http.client.HTTPConnection(*self.proxy, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers
        finally:
            connection.close()

    def readiness(self):
        """The status and the text of /readyz."""
        connection = http.client.HTTPConnection(*self.admin, timeout=10)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def until_said(self, *texts, within=SOON):
        """Waits until the output has all these texts."""
        with self._changed:
            done = self._changed.wait_for(lambda: all(text in "".join(self.lines) for text in texts), within)
        assert done, f"not said within {within} s: {texts}\n{self.output[-4000:]}"

    def until(self, seen, what, within=SOON):
        """Asks `seen` again and again: for what no double is told of."""
        deadline = time.monotonic() + within
        while not seen():
            assert time.monotonic() < deadline, f"{what}: not within {within} s\n{self.output[-4000:]}"
            time.sleep(0.05)  # a pause of the poll

    def until_answer(self, path, status, within=SOON):
        """Asks until it answers so."""
        self.until(lambda: self.get(path)[0] == status, f"{status} for {path}", within)


class Unready(Proxy):
    """Up once it listens."""

    wait_until_ready = False


@contextlib.contextmanager
def running(directory, config, environment=None, known_secrets=(), ready=True):
    """A countersign of this config, ended at the end; no secret may be in its output, those added meanwhile included."""
    sidecar = (Proxy if ready else Unready)(directory, SETTINGS + config, environment, known_secrets)
    try:
        yield sidecar
    except BaseException:
        sidecar._end()
        print(sidecar.output[-6000:])
        raise
    sidecar.stop()


class Flow:
    """Requests to one path, on `callers` kept connections, for as long as it is open; `answers` counts what came."""

    def __init__(self, sidecar, path, callers=2):
        self.answers = Counter()
        self._address, self._path = sidecar.proxy, path
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(callers)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join(SOON)

    def _ask(self):
        connection = http.client.HTTPConnection(*self._address, timeout=20)
        while not self._ended.wait(0.02):  # a steady flow, and no load
            try:
                connection.request("GET", self._path)
                answer = connection.getresponse()
                answer.read()
                self.answers[answer.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.answers[repr(error)] += 1
                connection.close()
        connection.close()


class Together:
    """Functions that wait more than they work: all run at the same time, each with a folder, and a test tells of each."""

    def __init__(self):
        self.functions = {}

    def add(self, function, *arguments):
        name = function.__name__ + "".join(f"[{argument}]" for argument in arguments)
        self.functions[name] = lambda folder: function(folder, *arguments)
        return function

    def run(self, make_folder):
        with concurrent.futures.ThreadPoolExecutor(len(self.functions)) as pool:
            yield {name: pool.submit(function, make_folder(name)) for name, function in self.functions.items()}


def bearer(name, issuer, secret, upstream, lines=""):
    """An [auth] table and a route to `upstream` by the same name; `secret` is TOML."""
    return f"""
[auth.{name}]
kind = "client-credentials"
token_url = "{issuer.token_url}"
client_id = "{name}"
client_secret = {secret}
{lines}
{route(name, upstream)}"""


def sigv4(name, upstream, lines):
    """An [auth] table and a route to `upstream` by the same name."""
    return f"""
[auth.{name}]
kind = "sigv4"
region = "ap-northeast-1"
{lines}
{route(name, upstream)}"""


def route(name, upstream, auth=None, lines=""):
    return f"""
[[route]]
name = "{name}"
path = "/{name}"
upstream = "{upstream.url}"
auth = "{auth or name}"
{lines}
"""
