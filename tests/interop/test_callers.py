"""Who may call, judged with other people's clients: tokens in URLs, TLS, Unix sockets, other users of the machine."""

import contextlib
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import tempfile

import httpx
import pytest
import requests
import wire
from conftest import configuration, route

TOKEN = "caller-" + secrets.token_hex(16)
NOBODY = 65534
OTHER_USERS = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def curl(*arguments: str, user: int | None = None) -> tuple[int, str]:
    """Exit code of curl, and what it printed; with `--write-out` that is what was asked for."""
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    done = subprocess.run(
        [*as_user, "curl", "--silent", *arguments], capture_output=True, timeout=wire.PATIENCE, cwd="/"
    )
    return done.returncode, done.stdout.decode()


def listening(gateway, lines: str) -> str:
    config = configuration(route(gateway, "/signed", "/prod", "session"))
    return config.replace('listen = ["127.0.0.1:0"]\n', lines, 1)


@pytest.fixture(scope="module")
def guarded(gateway, start):
    lines = 'listen = ["127.0.0.1:0"]\ncaller_token = { env = "CALLER_TOKEN" }\n'
    return start(listening(gateway, lines), environment={"CALLER_TOKEN": TOKEN}, known_secrets={TOKEN})


@pytest.mark.parametrize("userinfo", [TOKEN, f"x:{TOKEN}", f"{TOKEN}:"])
def test_a_token_in_the_url_is_enough(guarded, userinfo):
    url = "http://%s@%s:%d/signed" % (userinfo, *guarded.proxy)
    assert curl("--fail", url)[0] == 0
    if ":" in userinfo:  # requests sends no user name without a password
        assert requests.get(url, timeout=wire.PATIENCE).status_code == 200
    assert httpx.get(url, timeout=wire.PATIENCE).status_code == 200


def test_a_token_in_the_url_of_a_proxy_is_enough(guarded):
    proxy = "http://%s@%s:%d" % (TOKEN, *guarded.proxy)
    code, status = curl("--proxy", proxy, "--output", "/dev/null", "--write-out", "%{http_code}", "http://localhost/signed")
    assert (code, status) == (0, "200")


def test_without_the_token_a_client_is_asked_for_it(guarded):
    answer = requests.get(guarded.url + "/signed", timeout=wire.PATIENCE)
    assert (answer.status_code, answer.headers["x-countersign-error"]) == (401, "caller-token")
    assert answer.headers["www-authenticate"] == 'Basic realm="countersign"'
    wrong = requests.get(guarded.url + "/signed", auth=(TOKEN[:-1], TOKEN[1:]), timeout=wire.PATIENCE)
    assert wrong.status_code == 401


@OTHER_USERS
def test_another_user_needs_the_token_too(guarded):
    what = ["--output", "/dev/null", "--write-out", "%{http_code}"]
    assert curl(*what, guarded.url + "/signed", user=NOBODY) == (0, "401")


def test_both_protocols_are_spoken_over_tls(gateway, start, tmp_path):
    pair = gateway.ca.issue_cert("localhost")
    pair.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, pem in enumerate(pair.cert_chain_pems):
        pem.write_to_path(tmp_path / "cert.pem", append=number > 0)
    gateway.ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    lines = f'listen = ["127.0.0.1:0"]\ntls = {{ cert = "{tmp_path}/cert.pem", key = "{tmp_path}/key.pem" }}\n'
    sidecar = start(listening(gateway, lines))
    url = "https://localhost:%d/signed" % sidecar.proxy[1]
    told = ["--ipv4", "--cacert", f"{tmp_path}/ca.pem", "--output", "/dev/null", "--write-out", "%{http_code} %{http_version}"]
    assert curl("--http2", *told, url) == (0, "200 2")
    assert curl("--http1.1", *told, url) == (0, "200 1.1")
    assert curl("--http2", "--data-binary", "x" * 100_000, *told, url) == (0, "200 2")
    assert curl("--http2", "--head", *told, url)[1].endswith(" 2")
    assert curl("--tls-max", "1.1", *told, url)[0] == 35, "no handshake below TLS 1.2"
    assert curl("--insecure", "--http2", *told[3:], url.replace("localhost", "127.0.0.1")) == (0, "200 2")


@pytest.fixture
def open_folder():
    """A folder that every user may enter; pytest's own are for one."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="countersign-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@OTHER_USERS
@pytest.mark.parametrize("mode", ["0600", "0666"])
def test_a_socket_is_for_its_owner(gateway, start, open_folder, mode):
    path = open_folder / "proxy.sock"
    start(listening(gateway, f'listen = ["127.0.0.1:0", "unix:{path}"]\nsocket_mode = "{mode}"\n'))
    ask = ["--unix-socket", str(path), "--output", "/dev/null", "--write-out", "%{http_code}", "http://localhost/signed"]
    assert curl(*ask) == (0, "200")
    code, status = curl(*ask, user=NOBODY)
    # 7: connecting is denied by the mode. 52 and 56: closed without a byte, by the kernel's word on who connects; 7, too, if
    # curl looks late.
    assert (code in ([7] if mode == "0600" else [7, 52, 56]), status) == (True, "000"), code


@OTHER_USERS
def test_a_socket_lets_in_whom_it_lists(gateway, start, open_folder):
    path = open_folder / "proxy.sock"
    lines = f'listen = ["127.0.0.1:0", "unix:{path}"]\nsocket_mode = "0666"\nsocket_users = [{NOBODY}]\n'
    start(listening(gateway, lines))
    ask = ["--unix-socket", str(path), "--output", "/dev/null", "--write-out", "%{http_code}", "http://localhost/signed"]
    assert curl(*ask, user=NOBODY) == (0, "200")
    # Not curl: it reports a connection that ends before its first byte in one of three ways.
    with socket.socket(socket.AF_UNIX) as root:
        root.settimeout(wire.PATIENCE)
        root.connect(str(path))
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            root.sendall(b"GET /signed HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert root.recv(1) == b"", "root is not on the list"
