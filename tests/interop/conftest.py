"""Starts countersign as a user would, beside an API Gateway and a token endpoint that believe nothing."""

import base64
import functools
import hashlib
import http.client
import http.server
import json
import os
import pathlib
import secrets
import signal
import subprocess
import threading
import time
import urllib.parse
from collections import Counter

import pytest
from gateway import HOST, REGION, SERVICE, Gateway, Keys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("COUNTERSIGN", REPOSITORY / "target/release/countersign")).absolute()
UP_WITHIN = 20.0  # seconds from start to ready; a debug build on a busy machine takes one
DOWN_WITHIN = 30.0  # SIGTERM to exit: the drain deadline is 25 s
KEPT_OUTPUT = 64 * 1024 * 1024

# One session-token identity and one without: a caller's own x-amz-security-token must not slip in beside either.
SESSION_KEYS = Keys("ASIASESSIONEXAMPLE", "s3cret/session+" + secrets.token_hex(12), "tok/en+" + secrets.token_hex(40) + "==")
PLAIN_KEYS = Keys("AKIAPLAINEXAMPLE", "s3cret/plain+" + secrets.token_hex(12))
API_KEY = "apikey-" + secrets.token_hex(16)
CLIENT_ID, CLIENT_SECRET = "141ko0tsl9qpba05m4p19179m2", "client-" + secrets.token_hex(24)

ENVIRONMENT = {
    "SESSION_ID": SESSION_KEYS.access_key_id,
    "SESSION_SECRET": SESSION_KEYS.secret_access_key,
    "SESSION_TOKEN": SESSION_KEYS.session_token,
    "PLAIN_ID": PLAIN_KEYS.access_key_id,
    "PLAIN_SECRET": PLAIN_KEYS.secret_access_key,
    "API_KEY": API_KEY,
    "CLIENT_SECRET": CLIENT_SECRET,
}
SECRETS = {
    SESSION_KEYS.secret_access_key,
    SESSION_KEYS.session_token,
    PLAIN_KEYS.secret_access_key,
    API_KEY,
    CLIENT_SECRET,
    base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode(),
}


class Sidecar:
    """A running countersign: its addresses, and all that it printed.

    Its environment is clean but for what is given. `secrets` may grow while it runs; `stop` searches them all.
    """

    def __init__(self, directory: pathlib.Path, config: str, environment=None, known_secrets=(), arguments=()):
        if not BINARY.is_file():
            pytest.fail(f"no binary at {BINARY}: cargo build --release, or set COUNTERSIGN", pytrace=False)
        self.secrets: set[str] = set(known_secrets)
        self.lines: list[str] = []
        self.addresses: dict[str, list[tuple[str, int]]] = {}
        self._changed = threading.Condition()  # its lock may be taken again by who holds it
        path = directory / "countersign.toml"
        path.write_text(config)
        clean = {"PATH": os.environ["PATH"], "HOME": str(directory), "AWS_EC2_METADATA_DISABLED": "true"}
        self.process = subprocess.Popen(
            [str(BINARY), "run", "--config", str(path), *arguments],
            cwd=directory,
            env=clean | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()
        try:
            self._wait_until_up()
        except BaseException:
            self._end()
            raise

    @property
    def proxy(self) -> tuple[str, int]:
        return self.addresses["proxy"][0]

    @property
    def admin(self) -> tuple[str, int]:
        return self.addresses["admin"][0]

    @property
    def url(self) -> str:
        return "http://%s:%d" % self.proxy

    @property
    def output(self) -> str:
        with self._changed:
            return "".join(self.lines)

    def access(self) -> list[dict]:
        """Its access log: one entry per request that it has seen the end of. Needs `format = "json"`."""
        entries = (json.loads(line) for line in self.output.splitlines() if line.startswith('{"timestamp"'))
        return [entry for entry in entries if entry["target"] == "access"]

    def wait_for_access(self, predicate, within: float = UP_WITHIN) -> bool:
        """Whether `predicate(access())` came true in time."""
        with self._changed:
            return self._changed.wait_for(lambda: predicate(self.access()), within)

    def resident(self) -> int:
        """Bytes of memory it holds now (VmRSS)."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    def assert_no_secret_in(self, text: str, place: str):
        leaked = [secret[:6] + "..." for secret in self.secrets if secret and secret in text]
        assert not leaked, f"secrets in {place}: {leaked}"

    def stop(self):
        """Asks it to stop as an orchestrator does; it must leave cleanly and have told no secret."""
        try:
            alive = self.process.poll() is None
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(DOWN_WITHIN)
        finally:
            self._end()
        assert alive, f"it had ended by itself, with {code}:\n{self.output[-4000:]}"
        assert code == 0, f"exit code {code} after SIGTERM:\n{self.output[-4000:]}"
        self.assert_no_secret_in(self.output, "its output")
        assert "panicked at" not in self.output, self.output[self.output.index("panicked at") - 200 :][:4000]

    def _end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)
        for reader in self._readers:
            reader.join(5)

    def _read(self, stream):
        kept = 0
        for raw in stream:
            line = raw.decode("utf-8", "replace")
            kept += len(line)
            with self._changed:
                if kept <= KEPT_OUTPUT:
                    self.lines.append(line)
                self._note(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def _note(self, line: str):
        """Learns an address from `{"message": "listening", "listener": ..., "address": ...}`, at top level or in fields."""
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if not isinstance(entry, dict):
            return
        fields = entry.get("fields") if isinstance(entry.get("fields"), dict) else entry
        if fields.get("message") == "listening" and "address" in fields:
            host, _, port = str(fields["address"]).rpartition(":")
            self.addresses.setdefault(str(fields["listener"]), []).append((host.strip("[]"), int(port)))

    def _wait_until_up(self):
        deadline = time.monotonic() + UP_WITHIN
        with self._changed:
            self._changed.wait_for(lambda: {"proxy", "admin"} <= self.addresses.keys() or self.process.poll() is not None, UP_WITHIN)
        while True:
            printed = f"\n{self.output[-4000:]}"
            assert self.process.poll() is None, f"it ended with {self.process.returncode} instead of starting:{printed}"
            assert {"proxy", "admin"} <= self.addresses.keys(), f"no listening lines, only {self.addresses}:{printed}"
            status = self._ready()
            if status == 200:
                return
            assert time.monotonic() < deadline, f"/readyz still says {status}:{printed}"
            with self._changed:
                self._changed.wait(0.05)  # a pause of the poll; a new log line ends it early

    def _ready(self):
        connection = http.client.HTTPConnection(*self.admin, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status
        except OSError as error:
            return error
        finally:
            connection.close()


class TokenEndpoint:
    """An OAuth2 token endpoint for client credentials, plain HTTP on loopback; every token is new and lives an hour."""

    def __init__(self, issued):
        self.calls = 0
        self.refused: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers.get("content-length", 0))).decode())
                want = "Basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
                outer.calls += 1
                if self.path != "/oauth2/token" or self.headers.get("authorization") != want or form.get("grant_type") != ["client_credentials"]:
                    outer.refused.append(f"{self.path} {form.keys()}")
                    return self.answer(400, {"error": "invalid_client"})
                token = f"eyJ.{secrets.token_urlsafe(600)}.sig"
                issued(token)
                self.answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": 3600})

            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/oauth2/token"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def route(gateway: Gateway, path: str, stage: str, auth: str, **more: str) -> str:
    """A [[route]] to one stage of the gateway; `more` is TOML text by key."""
    lines = {
        "name": f'"{(path.strip("/") or "root")}"',
        "path": f'"{path}"',
        "upstream": f'"https://{HOST}{stage}"',
        "connect_to": f'"127.0.0.1:{gateway.port}"',
        "strip_path": "true",
        "auth": f'"{auth}"',
    } | more
    return "[[route]]\n" + "\n".join(f"{key} = {value}" for key, value in lines.items()) + "\n"


def static_auth(name: str, prefix: str, *, session: bool) -> str:
    token = f', session_token = {{ env = "{prefix}_TOKEN" }}' if session else ""
    keys = f'access_key_id = {{ env = "{prefix}_ID" }}, secret_access_key = {{ env = "{prefix}_SECRET" }}{token}'
    return (
        f'[auth.{name}]\nkind = "sigv4"\nregion = "{REGION}"\nservice = "{SERVICE}"\n'
        f"credentials = {{ static = {{ {keys} }} }}\n"
    )


def configuration(*routes: str, level: str = "info", token_url: str | None = None) -> str:
    bearer = (
        f'[auth.bearer]\nkind = "client-credentials"\ntoken_url = "{token_url}"\nclient_id = "{CLIENT_ID}"\n'
        'client_secret = { env = "CLIENT_SECRET" }\n'
        if token_url
        else ""
    )
    return "\n".join(
        [
            '[proxy]\nlisten = ["127.0.0.1:0"]\n',
            '[admin]\nlisten = "127.0.0.1:0"\n',
            f'[log]\nformat = "json"\nlevel = "{level}"\n',
            '[upstream]\nca_file = "ca.pem"\n',
            static_auth("session", "SESSION", session=True),
            static_auth("plain", "PLAIN", session=False),
            bearer,
            *routes,
        ]
    )


@pytest.fixture(scope="module")
def gateway():
    """One gateway for a module; bytes it could not take for HTTP fail the module."""
    server = Gateway()
    server.keys = {keys.access_key_id: keys for keys in (SESSION_KEYS, PLAIN_KEYS)}
    yield server
    server.close()
    assert server.failures == []


@pytest.fixture(scope="module")
def start(gateway, tmp_path_factory):
    """Starts sidecars of a module with `start(config)`, and stops all of them at its end, whatever one of them does."""
    running: list[Sidecar] = []

    def begin(config: str, **more) -> Sidecar:
        directory = tmp_path_factory.mktemp("sidecar")
        gateway.ca.cert_pem.write_to_path(directory / "ca.pem")
        sidecar = Sidecar(directory, config, ENVIRONMENT | more.pop("environment", {}), SECRETS | set(more.pop("known_secrets", ())), **more)
        running.append(sidecar)
        return sidecar

    yield begin
    problems = []
    for sidecar in running:
        sidecar.secrets |= gateway.tokens
        try:
            sidecar.stop()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            problems.append(str(error))
    assert not problems, "\n\n".join(problems)


@pytest.fixture(scope="module")
def token_endpoint(gateway):
    endpoint = TokenEndpoint(gateway.tokens.add)
    yield endpoint
    endpoint.close()
    assert endpoint.refused == []


@pytest.fixture(autouse=True)
def no_proxy_environment(monkeypatch):
    """Clients run with default settings: the machine's own proxy variables must not send them elsewhere."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@functools.lru_cache
def content(length: int) -> bytes:
    """Bytes that differ everywhere and are the same every time, so that a lost or swapped piece shows in the hash."""
    return hashlib.shake_128(b"countersign").digest(length)


# Counts for the summary: outcome -> how many requests had it.
tally: Counter = Counter()


def pytest_terminal_summary(terminalreporter):
    if tally:
        terminalreporter.section("counted")
        for outcome, count in sorted(tally.items()):
            terminalreporter.write_line(f"{count:5} {outcome}")
