"""Programs that have countersign for their HTTP proxy: by HTTP_PROXY and by HTTPS_PROXY, as each program asks.

What has a route is signed, whichever way it was asked for, and judged by the gateway; the rest is as configured. The
programs trust the authority that `countersign ca init` made, in the way that it prints.
"""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request

import httpx
import pytest
import requests
import wire
from chromium import Chromium
from conftest import BINARY, configuration, route
from gateway import HOST

import netns

PATIENCE = wire.PATIENCE
HERE = pathlib.Path(__file__).parent
ELSEWHERE = "203.0.113.5"  # RFC 5737: not loopback, and in a namespace it is whose it is


@pytest.fixture(scope="module")
def folder(tmp_path_factory, gateway):
    """Where the developer's authority is; what trusts it beside what everybody trusts is in bundle.pem."""
    directory = tmp_path_factory.mktemp("developer")
    config = f'[proxy.forward]\nconnect = "intercept"\nca_cert = "dev.pem"\nca_key = "dev-key.pem"\n{routes(gateway)}'
    (directory / "countersign.toml").write_text(config.replace('"session"', '"none"').replace('"bearer"', '"none"'))
    done = subprocess.run([str(BINARY), "ca", "init"], cwd=directory, env={}, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return directory


def routes(gateway):
    return route(gateway, "/signed", "/prod", "session") + route(gateway, "/bearer", "/bearer", "bearer")


@pytest.fixture(scope="module")
def sidecar(gateway, start, token_endpoint, folder):
    config = configuration(routes(gateway), token_url=token_endpoint.url)
    forward = f'forward = {{ connect = "intercept", ca_cert = "{folder}/dev.pem", ca_key = "{folder}/dev-key.pem" }}'
    return start(config.replace("[proxy]\n", f"[proxy]\n{forward}\n", 1))


@pytest.fixture(params=["http", "https"])
def scheme(request):
    return request.param


@pytest.fixture(params=["prod", "bearer"])
def url(request, scheme):
    """The API's own URL: of a SigV4 route, then of a bearer route."""
    return f"{scheme}://{HOST}/{request.param}/x?b=2&a=1"


@pytest.fixture
def environment(sidecar, folder, monkeypatch):
    """What a developer's shell has."""
    given = {
        "http_proxy": sidecar.url, "HTTP_PROXY": sidecar.url, "https_proxy": sidecar.url, "HTTPS_PROXY": sidecar.url,
        "CURL_CA_BUNDLE": f"{folder}/dev.pem", "SSL_CERT_FILE": f"{folder}/dev.pem",
        "REQUESTS_CA_BUNDLE": f"{folder}/dev.pem", "NODE_EXTRA_CA_CERTS": f"{folder}/dev.pem",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return os.environ | given


def run(*arguments, environment) -> str:
    if shutil.which(arguments[0]) is None:
        pytest.fail(f"{arguments[0]} is not installed: run tests/interop/packages as root", pytrace=False)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def assert_seen(seen: dict, url: str, method="GET", body=b""):
    assert seen["complaints"] == []
    assert (seen["method"], seen["sha256"]) == (method, hashlib.sha256(body).hexdigest())
    # A signed query goes out in canonical encoding, and in the order it came in.
    assert base64.b64decode(seen["target"]).decode() == url.partition(HOST)[2]


# Programs


@pytest.mark.parametrize("version", ["--http1.1", "--http2", "--http1.0"])
def test_curl(url, environment, version):
    ask = ("curl", "--silent", "--show-error", "--fail-with-body", version)
    assert_seen(json.loads(run(*ask, url, environment=environment)), url)
    assert_seen(json.loads(run(*ask, "-d", "a=b", url, environment=environment)), url, "POST", b"a=b")


def test_curl_tunnels_plain_http_too(url, environment):
    # -p asks for CONNECT to port 80, too, as Node's undici does.
    assert_seen(json.loads(run("curl", "--silent", "--show-error", "--fail-with-body", "-p", url, environment=environment)), url)


def test_requests(url, environment):
    with requests.Session() as session:
        for _ in range(2):
            assert_seen(session.get(url, timeout=PATIENCE).json(), url)
        assert_seen(session.post(url, data=b"body", timeout=PATIENCE).json(), url, "POST", b"body")


def test_httpx(url, environment):
    with httpx.Client(timeout=PATIENCE) as client:
        assert_seen(client.get(url).raise_for_status().json(), url)
        assert_seen(client.post(url, content=b"body").raise_for_status().json(), url, "POST", b"body")


def test_urllib(url, environment):
    # It keeps its default context's roots from the start of the process: another process.
    script = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=15).read().decode())"
    assert_seen(json.loads(run(sys.executable, "-c", script, url, environment=environment)), url)


def test_node_undici(url, environment):
    if not (HERE / "node_modules/undici").is_dir():
        pytest.fail("undici is not installed: npm ci --prefix tests/interop", pytrace=False)
    script = """
      const {ProxyAgent, EnvHttpProxyAgent, fetch} = require(process.argv[1] + '/node_modules/undici');
      (async () => {
        const all = [];
        for (const dispatcher of [new ProxyAgent(process.env.HTTPS_PROXY), new EnvHttpProxyAgent()]) {
          const r = await fetch(process.argv[2], {dispatcher, method: 'POST', body: 'body'});
          if (!r.ok) throw new Error(r.status + await r.text());
          all.push(await r.json());
        }
        console.log(JSON.stringify(all));
      })().catch(e => { console.error(e); process.exit(1) });"""
    for seen in json.loads(run("node", "-e", script, str(HERE), url, environment=environment)):
        assert_seen(seen, url, "POST", b"body")


def test_javas_http_client(url, environment, sidecar, folder):
    modules = subprocess.run(["java", "--list-modules"], capture_output=True, text=True).stdout if shutil.which("java") else ""
    if "jdk.compiler" not in modules or not shutil.which("keytool"):
        pytest.skip("no JDK here that runs a source file (Debian: openjdk-17-jdk-headless)")
    store = folder / "trust.p12"
    if not store.exists():
        run("keytool", "-importcert", "-noprompt", "-keystore", str(store), "-storepass", "changeit", "-alias", "countersign-developer", "-file", f"{folder}/dev.pem", environment=environment)
    trust = [f"-Djavax.net.ssl.trustStore={store}", "-Djavax.net.ssl.trustStorePassword=changeit"]
    clean = {name: value for name, value in environment.items() if not name.lower().endswith("_proxy")}
    answers = json.loads(run("java", *trust, str(HERE / "Forward.java"), str(sidecar.proxy[1]), url, environment=clean))
    assert len(answers) == 4
    for number, seen in enumerate(answers):
        assert_seen(seen, url, *(("POST", b"body") if number % 2 else ()))


def test_a_client_that_asks_as_go_does(url, sidecar, folder):
    """One CONNECT, one connection, several requests; or the URL as the request-target."""
    if url.startswith("http://"):
        connection, target = http.client.HTTPConnection(*sidecar.proxy, timeout=PATIENCE), url
    else:
        trust = ssl.create_default_context(cafile=f"{folder}/dev.pem")
        connection, target = http.client.HTTPSConnection(*sidecar.proxy, timeout=PATIENCE, context=trust), url.partition(HOST)[2]
        connection.set_tunnel(HOST, 443)
    for body in (b"", b"one", b"two"):
        connection.request("POST", target, body=body, headers={"Host": HOST})
        assert_seen(json.load(connection.getresponse()), url, "POST", body)
    connection.close()


# What has no route


def test_other_hosts_are_refused_with_what_to_do(scheme, environment, sidecar):
    before = sidecar.output
    if scheme == "http":
        answer = requests.get("http://other.example/x", timeout=PATIENCE)
        assert answer.status_code == 404
        assert f"http://{HOST}/prod" in answer.json()["detail"] and "[[route]]" in answer.json()["detail"]
    else:
        with pytest.raises(requests.exceptions.ProxyError, match="404"):
            requests.get("https://other.example/x", timeout=PATIENCE)
    assert "other.example" in sidecar.output.removeprefix(before) or sidecar.wait_for_access(lambda entries: any(entry["status"] == 404 for entry in entries))


def test_who_does_not_trust_the_authority_gets_nothing(gateway, environment):
    before = gateway.requests
    done = subprocess.run(["curl", "--silent", f"https://{HOST}/prod/x"], env=environment | {"CURL_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt"}, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 60, "curl's code for a certificate that it does not trust"
    assert gateway.requests == before


def test_the_authority_vouches_for_nothing_else(folder, tmp_path):
    """OpenSSL, and so most programs, refuses what the name constraints leave out, even when the key is stolen."""
    run("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", f"{tmp_path}/k", "-out", f"{tmp_path}/r", environment=os.environ)
    for name, is_good in ((HOST, True), ("other.example", False)):
        (tmp_path / "e").write_text(f"subjectAltName=DNS:{name}\n")
        run("openssl", "x509", "-req", "-in", f"{tmp_path}/r", "-CA", f"{folder}/dev.pem", "-CAkey", f"{folder}/dev-key.pem", "-set_serial", "1", "-extfile", f"{tmp_path}/e", "-out", f"{tmp_path}/c", environment=os.environ)
        verified = subprocess.run(["openssl", "verify", "-CAfile", f"{folder}/dev.pem", f"{tmp_path}/c"], capture_output=True, text=True)
        assert (verified.returncode == 0) == is_good, verified.stdout + verified.stderr


# A browser


def test_chromium_is_signed_for_and_its_pages_are_not(gateway, sidecar, folder, tmp_path):
    store = tmp_path / ".pki/nssdb"
    store.mkdir(parents=True)
    run("certutil", "-d", f"sql:{store}", "-N", "--empty-password", environment=os.environ)
    run("certutil", "-d", f"sql:{store}", "-A", "-t", "C,,", "-n", "countersign-developer", "-i", f"{folder}/dev.pem", environment=os.environ)
    browser = Chromium(proxy=sidecar.url, home=str(tmp_path))
    try:
        for target in (f"https://{HOST}/prod/typed-https", f"http://{HOST}/prod/typed-http"):
            browser.open(target)
        page = f"<script>fetch('https://{HOST}/prod/stolen', {{mode: 'no-cors'}})</script>"
        browser.open(f"data:text/html,{page}")

        def answered(path):
            return lambda entries: any(entry["path"] == path and entry["status"] in (200, 403) for entry in entries)

        for path in ("/prod/typed-https", "/prod/typed-http", "/prod/stolen"):
            assert sidecar.wait_for_access(answered(path), 60), f"{path}: {sidecar.output[-3000:]}"
    finally:
        browser.close()
    statuses = {entry["path"]: entry["status"] for entry in sidecar.access() if entry["path"].startswith("/prod/")}
    assert (statuses["/prod/typed-https"], statuses["/prod/typed-http"], statuses["/prod/stolen"]) == (200, 200, 403)
    seen = {bytes(seen.path).decode(): seen.complaints for seen in gateway.seen}
    assert seen["/prod/typed-https"] == () and "/prod/stolen" not in seen


# Where no caller is led: names that lead to this machine, and name servers that change their mind. In a namespace, where
# every name and address can be had.


class Names:
    """A name server: `flip.test` is elsewhere at the first question and here at every other; all else is here."""

    def __init__(self):
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self):
        while True:
            question, client = self._socket.recvfrom(512)
            end = question.index(b"\0", 12) + 5
            name, (kind,) = question[12 : end - 4], struct.unpack(">H", question[end - 4 : end - 2])
            address = "127.0.0.1"
            if name.startswith(b"\x04flip") and kind == 1:
                self.asked += 1
                address = ELSEWHERE if self.asked % 2 else "127.0.0.1"
            if name.startswith(b"\x04mapd"):
                kind_wanted, data = 28, socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1")
            else:
                kind_wanted, data = 1, socket.inet_aton(address)
            record = b"\xc0\x0c" + struct.pack(">HHIH", kind_wanted, 1, 0, len(data)) + data if kind == kind_wanted else b""
            self._socket.sendto(question[:2] + b"\x81\x80\0\1" + struct.pack(">H", bool(record)) + b"\0\0\0\0" + question[12:end] + record, client)


class Listener:
    """Counts who comes, and answers as an HTTP server would."""

    def __init__(self, address, port=0):
        self.came = 0
        self._socket = socket.create_server((address, port))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            connection, _ = self._socket.accept()
            self.came += 1
            with contextlib.suppress(OSError):
                connection.settimeout(5)
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 Here\r\ncontent-length: 4\r\nconnection: close\r\n\r\nhere")
            connection.close()


def told(sidecar, start_line):
    """The status of a request that is all in its first line."""
    with wire.connect(sidecar.proxy) as sock:
        sock.sendall(f"{start_line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return int(wire.Reader(sock).until(b"\r\n\r\n").split(b" ")[1])


def test_no_name_and_no_name_server_leads_to_this_machine():
    netns.run_inside(nothing_comes, timeout=100)


def nothing_comes():
    from conftest import Sidecar  # here: what is imported above runs outside, too

    netns.settle([], addresses=(ELSEWHERE, netns.INSTANCE_METADATA), lookup="files dns")
    netns._mount_over("/etc/resolv.conf", "nameserver 127.0.0.1\n")
    names = Names()
    here = Listener("127.0.0.1")
    metadata = Listener(netns.INSTANCE_METADATA, 80)
    elsewhere = Listener(ELSEWHERE, here.port)
    port = here.port
    with tempfile.TemporaryDirectory() as directory:
        config = f"""
[proxy]
listen = ["127.0.0.1:0"]
[proxy.forward]
unmatched = "pass"
connect = "tunnel"
connect_hosts = ["*.test:{port}", "*.test:80", "{ELSEWHERE}:{port}"]
[admin]
listen = "127.0.0.1:0"
[log]
format = "json"
[[route]]
auth = "none"
upstream = "https://{HOST}/prod"
"""
        sidecar = Sidecar(pathlib.Path(directory), config)
        try:
            assert told(sidecar, f"GET http://{ELSEWHERE}:{port}/") == 200
            assert told(sidecar, f"CONNECT {ELSEWHERE}:{port}") == 200
            hosts = [
                "here.test", "mapd.test", "deep.er.test", "here.test.", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.2",
                "0.0.0.0", "0", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[::]", "[2002:7f00:1::]",
                "localhost.", "x.localhost", "LOCALHOST.", "169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "2852039166",
            ]  # fmt: skip
            for host in hosts:
                for start_line in (f"GET http://{host}:{port}/", f"GET http://{host}/", f"CONNECT {host}:{port}", f"CONNECT {host}:80"):
                    status = told(sidecar, start_line)
                    assert 400 <= status < 500, f"{start_line}: {status}"
            assert (here.came, metadata.came) == (0, 0)
            before, statuses = elsewhere.came, []
            for _ in range(20):
                statuses.append(told(sidecar, f"GET http://flip.test:{port}/"))
            # Looked up once for each request, and what was judged is what was dialled.
            assert sorted(set(statuses)) == [200, 404], statuses
            assert (here.came, elsewhere.came - before) == (0, statuses.count(200))
            assert names.asked == 20, names.asked
            sidecar.stop()
        except BaseException:
            sidecar._end()
            print(sidecar.output[-4000:])
            raise
