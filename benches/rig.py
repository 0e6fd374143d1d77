"""Processes of a benchmark: an upstream that speaks TLS, proxies in front of it, and what they cost.

Everything lives in one temporary folder and on ports that the system chose. Needs Python's standard library, `openssl`,
and Debian's `nginx`; `haproxy` and `envoy` take part where they are found.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")
HOST = "abc123.execute-api.eu-west-1.amazonaws.com"
REGION = "eu-west-1"
SMALL = '{"message":"hello from the upstream, this is 56 bytes."}'
KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
CORES = os.cpu_count() or 1


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def find(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")


class Process:
    """A program under measurement, with its children."""

    def __init__(self, folder, name, command, env=None):
        self.name = name
        self.log = open(folder / f"{name}.log", "wb")
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}
        )
        self.pid = self.process.pid

    def pids(self):
        """It and its children: nginx does its work in those."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
                except OSError:
                    continue
                parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
        return [pid for pid in parents if self.pid in (pid, parents[pid])]

    def cpu(self):
        """Microseconds in user and in kernel mode so far."""
        user = system = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            user, system = user + int(fields[11]), system + int(fields[12])
        return user * 1e6 / TICKS, system * 1e6 / TICKS

    def rss(self, which="VmRSS"):
        """MiB; of several processes the sum."""
        total = 0
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(which + ":"):
                    total += int(line.split()[1])
        return total / 1024

    def answers(self, url, within=20.0, fresh=None):
        """Milliseconds from its start to its first good answer."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:
                    if answer.status == 200:
                        return (time.monotonic() - self.started) * 1000
            except OSError:
                time.sleep(0.001)
        raise SystemExit(f"{self.name} does not answer at {url}; see {self.log.name}:\n" + self.said())

    def said(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")[-2000:]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT if self.name.startswith("nginx") else signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


class Rig:
    """The upstream, the token endpoint and the proxies, until `close`."""

    def __init__(self, folder, binary):
        self.folder, self.binary = pathlib.Path(folder), pathlib.Path(binary)
        self.running = []
        self.cert, self.key = self.folder / "cert.pem", self.folder / "key.pem"
        make_certificate(self.cert, self.key)
        self.http1, self.http2, self.streams, self.tokens = (free_port() for _ in range(4))
        (self.folder / "ten").write_bytes(os.urandom(1024) * 10 * 1024)

    @classmethod
    @contextlib.contextmanager
    def running(cls, binary):
        """One with its upstream, in a folder of its own."""
        with tempfile.TemporaryDirectory(prefix="rig-") as folder:
            # nginx drops its rights, where it has any to drop, and reads its files as somebody else.
            pathlib.Path(folder).chmod(0o755)
            rig = cls(folder, binary)
            try:
                rig.upstream()
                yield rig
            finally:
                rig.close()

    def post(self, name, size):
        """A wrk script that posts `size` bytes."""
        body, script = self.folder / f"{name}.body", self.folder / f"{name}.lua"
        body.write_bytes(b"x" * size)
        script.write_text(f'wrk.method = "POST"\nlocal file = io.open("{body}", "rb")\nwrk.body = file:read("*a")\n')
        return script

    def start(self, name, command, env=None):
        process = Process(self.folder, name, command, env)
        self.running.append(process)
        return process

    def stop(self, process):
        process.stop()
        self.running.remove(process)

    def close(self):
        for process in reversed(self.running):
            process.stop()

    # What is measured against.

    def upstream(self):
        """nginx with TLS: HTTP/1.1 on one port, HTTP/2 on another; and what streams, by a program of ours."""
        locations = f"""
            ssl_certificate {self.cert}; ssl_certificate_key {self.key}; client_max_body_size 64m; http2_max_requests 100000000;
            location / {{ default_type application/json; return 200 '{SMALL}'; }}
            location = /b/ten {{ alias {self.folder}/ten; }} location = /s/ten {{ alias {self.folder}/ten; }}
            location = /n/ten {{ alias {self.folder}/ten; }}"""
        config = f"""worker_processes {CORES}; daemon off; pid {self.folder}/upstream.pid; error_log stderr crit;
            events {{ worker_connections 8192; }}
            http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 3600s; client_body_buffer_size 2m;
              client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/proxy;
              server {{ listen 127.0.0.1:{self.http1} ssl backlog=4096; {locations} }}
              server {{ listen 127.0.0.1:{self.http2} ssl http2 backlog=4096; {locations} }} }}"""
        self.nginx("nginx-upstream", config)
        self.start("streams", [sys.executable, str(pathlib.Path(__file__).with_name("upstream.py")), str(self.streams),
                               str(self.tokens), str(self.cert), str(self.key)])
        for port in (self.http1, self.http2, self.streams, self.tokens):
            wait_for(port)

    def nginx(self, name, config):
        path = self.folder / f"{name}.conf"
        path.write_text(config)
        return self.start(name, [find("nginx"), "-p", str(self.folder), "-c", str(path)])

    # What is measured.

    def plain_nginx(self):
        port = free_port()
        process = self.nginx("nginx", f"""worker_processes {CORES}; daemon off; pid {self.folder}/nginx.pid;
            error_log stderr crit; events {{ worker_connections 8192; }}
            http {{ access_log {self.folder}/nginx-access.log; keepalive_requests 100000000; client_max_body_size 64m;
              client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/proxy;
              upstream up {{ server 127.0.0.1:{self.http1}; keepalive 256; keepalive_requests 100000000; }}
              upstream streams {{ server 127.0.0.1:{self.streams}; }}
              server {{ listen 127.0.0.1:{port} backlog=4096;
                proxy_http_version 1.1; proxy_ssl_session_reuse on; proxy_set_header Connection "";
                proxy_set_header Host {HOST}; proxy_ssl_server_name on; proxy_ssl_name {HOST};
                location / {{ proxy_pass https://up; }}
                location /n/events {{ proxy_pass https://streams; proxy_buffering off; }}
                location /n/echo {{ proxy_pass https://streams; proxy_set_header Upgrade websocket;
                  proxy_set_header Connection upgrade; }} }} }}""")
        wait_for(port)
        return process, f"http://127.0.0.1:{port}"

    def haproxy(self):
        if not find("haproxy"):
            return None
        port, path = free_port(), self.folder / "haproxy.cfg"
        path.write_text(f"""global
  maxconn 8192
  nbthread {CORES}
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  http-reuse always
  http-request set-header Host {HOST}
  server up 127.0.0.1:{self.http1} ssl verify none sni str({HOST})
""")
        process = self.start("haproxy", [find("haproxy"), "-f", str(path)])
        wait_for(port)
        return process, f"http://127.0.0.1:{port}"

    def envoy(self):
        installed = pathlib.Path(__file__).parent.glob(".venv/lib/*/site-packages/envoy/_bin/envoy")
        envoy = os.environ.get("ENVOY") or find("envoy") or next(map(str, installed), None)
        if not envoy:
            return None
        if not os.access(envoy, os.X_OK):
            os.chmod(envoy, 0o755)
        port, path = free_port(), self.folder / "envoy.json"
        kind = "type.googleapis.com/envoy.extensions."
        signing = {"@type": kind + "filters.http.aws_request_signing.v3.AwsRequestSigning",
                   "service_name": "execute-api", "region": REGION, "host_rewrite": HOST}
        router = {"@type": kind + "filters.http.router.v3.Router"}
        manager = {
            "@type": kind + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
                             "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]},
            "http_filters": [{"name": "signing", "typed_config": signing}, {"name": "router", "typed_config": router}],
        }
        address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        path.write_text(json.dumps({"static_resources": {
            "listeners": [{"address": address(port), "filter_chains": [
                {"filters": [{"name": "http", "typed_config": manager}]}]}],
            "clusters": [{
                "name": "up", "type": "STATIC",
                "load_assignment": {"cluster_name": "up", "endpoints": [
                    {"lb_endpoints": [{"endpoint": {"address": address(self.http1)}}]}]},
                "transport_socket": {"name": "tls", "typed_config": {
                    "@type": kind + "transport_sockets.tls.v3.UpstreamTlsContext", "sni": HOST}},
            }]}}))
        env = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
        process = self.start("envoy", [envoy, "-c", str(path), "--concurrency", str(CORES), "--use-dynamic-base-id",
                                       "-l", "error"], env)
        wait_for(port)
        return process, f"http://127.0.0.1:{port}"

    def peer(self):
        """Any other proxy: `PEER_CMD` is a shell command that listens on $PORT and sends to https://127.0.0.1:$UPSTREAM."""
        command = os.environ.get("PEER_CMD")
        if not command:
            return None
        port = free_port()
        process = self.start("peer", ["sh", "-c", "exec " + command],
                             {"PORT": str(port), "UPSTREAM": str(self.http1), "UPSTREAM_HOST": HOST,
                              "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET})
        wait_for(port)
        return process, f"http://127.0.0.1:{port}"

    def countersign(self, name="countersign", routes=1, upstream=None, limits=""):
        """Routes /s (SigV4), /b (bearer) and /n (no auth), and `routes` more of none; access log and all else on."""
        port, admin = free_port(), free_port()
        upstream = upstream or self.http1
        route = f'upstream = "https://{HOST}"\nconnect_to = "127.0.0.1:{upstream}"\n'
        streams = f'upstream = "https://{HOST}"\nconnect_to = "127.0.0.1:{self.streams}"\n'
        text = [f"""[proxy]
listen = ["127.0.0.1:{port}"]
max_connections = 4096
max_in_flight = 4096
{limits}
[admin]
listen = "127.0.0.1:{admin}"
[upstream]
ca_file = "{self.cert}"
[auth.iam]
kind = "sigv4"
credentials = {{ static = {{ access_key_id = {{ value = "{KEY_ID}" }}, secret_access_key = {{ value = "{SECRET}" }} }} }}
[auth.token]
kind = "client-credentials"
token_url = "http://127.0.0.1:{self.tokens}/oauth2/token"
client_id = "bench"
client_secret = {{ value = "bench-secret" }}
"""]
        text += [f'[[route]]\nname = "{path}"\npath = "/{path}"\nauth = "{auth}"\n{route}'
                 for path, auth in (("s", "iam"), ("b", "token"), ("n", "none"))]
        text.append(f'[[route]]\nname = "events"\npath = "/n/events"\nauth = "none"\n{streams}')
        text.append(f'[[route]]\nname = "echo"\npath = "/n/echo"\nauth = "none"\nwebsocket = true\n{streams}')
        text += [f'[[route]]\nname = "r{n}"\npath = "/more/{n}"\nauth = "none"\n{route}' for n in range(routes - 1)]
        path = self.folder / f"{name}.toml"
        path.write_text("".join(text))
        process = self.start(name, [str(self.binary), "run", "--config", str(path)])
        process.start_up = process.answers(f"http://127.0.0.1:{port}/s")
        process.answers(f"http://127.0.0.1:{port}/b")
        return process, f"http://127.0.0.1:{port}"


def wait_for(port, within=10.0):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.01)
    raise SystemExit(f"nobody listens on port {port}")


def make_certificate(cert, key):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "7",
         "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert), "-addext",
         f"subjectAltName=DNS:{HOST},DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"],
        check=True, capture_output=True,
    )
