"""Debian's tinyproxy as the corporate proxy: it sees all that should leave through it, and nothing else.

In a namespace (netns.py), where the API's and the issuer's names are known to everybody and the ECS agent has its address.
"""

import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time

import netns
from doubles import Agent, running
from gateway import HOST, REGION, Gateway, Keys, answer

UP_WITHIN = 10.0  # seconds
PROXY_PORT = 8888  # every port of the namespace is the test's
USER, PASSWORD = "corp-user", "pr0xy-s3cret-1234567890"
DIRECT = f"direct.execute-api.{REGION}.amazonaws.com"

# Everything from here runs inside the namespace.

class Corporate:
    """A running tinyproxy; with `credentials`, it wants them."""

    def __init__(self, directory, credentials):
        self.log = directory / "tinyproxy.log"
        lines = [
            f"Port {PROXY_PORT}", "Listen 127.0.0.1", "Timeout 60", "MaxClients 50", "LogLevel Connect", f'LogFile "{self.log}"',
            *([f"BasicAuth {USER} {PASSWORD}"] if credentials else []),
        ]
        path = directory / "tinyproxy.conf"
        path.write_text("\n".join(lines) + "\n")
        self.process = subprocess.Popen(
            [shutil.which("tinyproxy", path="/usr/bin:/usr/sbin"), "-d", "-c", str(path)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

    def __enter__(self):
        deadline = time.monotonic() + UP_WITHIN
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", PROXY_PORT)):
                return self
            assert self.process.poll() is None and time.monotonic() < deadline, "tinyproxy is not up"
            time.sleep(0.02)  # a pause of the poll

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)

    def asked(self):
        """What it was asked for, each destination once."""
        return set(re.findall(r"Request \(file descriptor \d+\): (\S+ \S+) HTTP", self.log.read_text()))


def config():
    """A route by a token and one by the task's role, both by way of the environment's proxy, and one to an excepted host."""
    return f"""
[upstream]
ca_file = "ca.pem"

[auth.tokens]
kind = "client-credentials"
token_url = "https://{HOST}/open/oauth2/token"
client_id = "orders"
client_secret = {{ env = "CLIENT_SECRET" }}

[auth.task]
kind = "sigv4"
region = "{REGION}"
credentials = "container"
""" + "".join(f"""
[[route]]
path = "/{path}"
upstream = "https://{host}/{stage}"
strip_path = true
auth = "{auth}"
""" for path, host, stage, auth in [
        ("bearer", HOST, "bearer", "tokens"), ("signed", HOST, "prod", "task"), ("direct", DIRECT, "open", "none")])


@contextlib.contextmanager
def world(proxy_url, ready=True):
    """The gateway, the ECS agent and a countersign that is told of a proxy by its environment alone."""
    with tempfile.TemporaryDirectory() as folder, Agent((netns.ECS_AGENT, 80), lifetime=3600) as agent:
        directory, gateway = pathlib.Path(folder), Gateway(443)
        gateway.ca.cert_pem.write_to_path(directory / "ca.pem")
        gateway.tokens.add("token-from-behind-the-proxy")
        body = {"access_token": "token-from-behind-the-proxy", "token_type": "Bearer", "expires_in": 3600}
        gateway.handlers["/open/oauth2/token"] = lambda sock, seen: answer(sock, seen, 200, json.dumps(body).encode())
        environment = {
            "CLIENT_SECRET": "client-secret-1234567890", "HTTPS_PROXY": proxy_url, "HTTP_PROXY": proxy_url,
            "NO_PROXY": DIRECT, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/task",
        }
        known = ["client-secret-1234567890", "token-from-behind-the-proxy", PASSWORD]
        try:
            with running(directory, config(), environment, known, ready) as sidecar:
                for key in agent.given:
                    gateway.keys[key.id] = Keys(key.id, key.secret, key.token)
                sidecar.secrets |= set(agent.secrets())
                yield sidecar, gateway
        finally:
            gateway.close()
        assert gateway.failures == []


def everything_but_metadata_goes_through(credentials):
    netns.settle([HOST, DIRECT], addresses=(netns.ECS_AGENT,))
    with tempfile.TemporaryDirectory() as folder, Corporate(pathlib.Path(folder), credentials) as corporate:
        userinfo = f"{USER}:{PASSWORD}@" if credentials else ""
        with world(f"http://{userinfo}127.0.0.1:{PROXY_PORT}") as (sidecar, gateway):
            for path in ("/bearer/orders", "/signed/orders", "/direct/orders"):
                assert sidecar.get(path)[0] == 200, path
            # The token, both upstreams; not the agent, and not the excepted host.
            assert corporate.asked() == {f"CONNECT {HOST}:443"}
            assert [seen.path for seen in gateway.seen if seen.values("proxy-authorization")] == []
            assert "/open/oauth2/token" in [seen.path.decode() for seen in gateway.seen]


def a_refusal_of_the_proxy_names_it():
    netns.settle([HOST, DIRECT], addresses=(netns.ECS_AGENT,))
    with tempfile.TemporaryDirectory() as folder, Corporate(pathlib.Path(folder), True) as corporate:
        with world(f"http://{USER}:wrong-{PASSWORD}@127.0.0.1:{PROXY_PORT}", ready=False) as (sidecar, gateway):
            sidecar.secrets.add(f"wrong-{PASSWORD}")
            status, headers = sidecar.get("/signed/orders")
            assert (status, headers["x-countersign-error"]) == (502, "upstream-unreachable")
            assert sidecar.get("/direct/orders")[0] == 200, "what goes past the proxy goes on"
            assert gateway.requests == 1
            named = [line for line in sidecar.output.splitlines() if f"proxy http://127.0.0.1:{PROXY_PORT}" in line]
            assert any("it wants credentials" in line for line in named), sidecar.output
            assert corporate.asked() <= {f"CONNECT {HOST}:443"}


# What pytest sees.

def test_everything_but_metadata_goes_through_the_proxy():
    netns.run_inside(everything_but_metadata_goes_through, False, timeout=90)


def test_the_proxys_credentials_are_shown_to_it_alone():
    netns.run_inside(everything_but_metadata_goes_through, True, timeout=90)


def test_a_refusal_of_the_proxy_names_it():
    netns.run_inside(a_refusal_of_the_proxy_names_it, timeout=90)
