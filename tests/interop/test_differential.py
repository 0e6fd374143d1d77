"""The same requests through nginx as a plain reverse proxy and through countersign with `auth = "none"`, to one API.

What the API sees, and what the client gets back, is compared as bytes. Every difference must be one that RULES names,
with its reason; every rule must have been needed. `-s` prints the list.
"""

import shutil
import socket
import subprocess
import time
from collections import Counter

import pytest
import targets
import wire
from conftest import Sidecar
from differential import CASES, Rule, answer, compare, exchange, ours_is_gone, ours_is_lower, ours_is_new
from upstream import Upstream

UP_WITHIN = 10.0  # seconds; nginx binds its socket in a few milliseconds

REFUSED_TARGETS = {target.raw for target in targets.TARGETS if target.rule in (targets.DOTS, targets.SLASH)}
CONTENT_EXPECTED = {"POST", "PUT", "PATCH"}
RULES = [
    Rule("API", "passed on", "a path with dot segments or %2f is refused with 400", "docs/rules.md 2.3",
         lambda case, d: d.ours is None and case.target in REFUSED_TARGETS),
    Rule("API", "field via", "Via is ours, and no other proxy's", "docs/rules.md 2.4; RFC 9110 7.6.3",
         lambda case, d: d.ours == [case.version.removeprefix(b"HTTP/") + b" countersign"]),
    Rule("API", "field x-request-id", "a request without an id gets one", "docs/rules.md 2.6", ours_is_new),
    Rule("API", "field (forwarded|x-forwarded-.*|x-real-ip)", "forwarding fields are stripped", 'proxy.forwarded = "strip"', ours_is_gone),
    Rule("API", "field (http2-settings|proxy-authorization|proxy-connection|trailer)", "hop-by-hop fields end here", "docs/rules.md 2.4; RFC 9110 7.6.1", ours_is_gone),
    Rule("API", "field x-[ab]", "fields that Connection names end here", "docs/rules.md 2.4; RFC 9110 7.6.1",
         lambda case, d: d.ours is None and case.name == "fields: nominated fields"),
    Rule("API", "case of names", "names are written in lower case", "RFC 9110 5.1: case has no meaning", ours_is_lower),
    Rule("API", "order of different names", "fields of different names change places", "RFC 9110 5.3: their order has no meaning"),
    Rule("API", "framing", "chunks stay chunks; nginx gives a length if it holds the whole body already", "docs/rules.md 2.2; RFC 9112 6.1",
         lambda case, d: case.chunk and (d.reference, d.ours) == ("length", "chunked")),
    Rule("API", "framing", "POST, PUT and PATCH without content say so: Content-Length: 0", "RFC 9110 8.6",
         lambda case, d: case.body is None and case.method in CONTENT_EXPECTED and (d.reference, d.ours) == ("none", "length")),
    Rule("API", "framing", "Content-Length: 0 goes where the method expects no content", "RFC 9110 8.6",
         lambda case, d: case.body == b"" and not case.chunk and case.method not in CONTENT_EXPECTED and (d.reference, d.ours) == ("length", "none")),
    Rule("client", "field x-countersign-hint", "a refusal comes with its likely cause", "docs/troubleshooting.md", ours_is_new),
    Rule("client", "field x-request-id", "every answer has the request's id", "docs/rules.md 2.6", ours_is_new),
    Rule("client", "field connection", "that the connection stays is not said, since it is the default", "RFC 9112 9.3",
         lambda case, d: (d.reference, d.ours) == ([b"keep-alive"], None)),
    Rule("client", "field date", "an answer without Date gets one", "RFC 9110 6.6.1", ours_is_new),
    Rule("client", "start", "an HTTP/1.0 client is answered in HTTP/1.0", "RFC 9112 2.3 lets 1.1 stand there",
         lambda case, d: case.version == b"HTTP/1.0" and d.ours == d.reference.replace("/1.1", "/1.0")),
    Rule("client", "field connection", "that the connection ends is not said to HTTP/1.0, whose default it is", "RFC 9112 9.3",
         lambda case, d: case.version == b"HTTP/1.0" and (d.reference, d.ours) == ([b"close"], None)),
    Rule("client", "field access-control-.*", "an API's CORS answers are not for this origin", "docs/rules.md 2.5", ours_is_gone),
    Rule("client", "field (alt-svc|strict-transport-security)", "what binds a host name to other transports does not hold here", "docs/rules.md 2.5", ours_is_gone),
    Rule("client", "field (proxy-connection|upgrade|trailer)", "hop-by-hop fields end here", "docs/rules.md 2.5; RFC 9110 7.6.1", ours_is_gone),
    Rule("client", "field x-a", "fields that Connection names end here", "docs/rules.md 2.5; RFC 9110 7.6.1",
         lambda case, d: d.ours is None and case.name == "answer: nominated fields"),
    Rule("client", "case of names", "names are written in lower case", "RFC 9110 5.1: case has no meaning", ours_is_lower),
    Rule("client", "order of different names", "fields of different names change places", "RFC 9110 5.3: their order has no meaning"),
    Rule("client", "trailers", "trailers reach a client that takes them; nginx drops them", "docs/rules.md 2.2",
         lambda case, d: b"TE: trailers" in case.lines and d.reference == []),
]  # fmt: skip

NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path body;
  proxy_temp_path temp;
  fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
  # Nothing judged, nothing held, nothing renamed: the plainest proxy it can be.
  underscores_in_headers on;
  ignore_invalid_headers off;
  client_max_body_size 0;
  large_client_header_buffers 8 64k;
  proxy_buffer_size 64k;
  proxy_buffers 8 64k;
  server {
    listen unix:nginx.sock;
    location / {
      proxy_pass http://127.0.0.1:%d;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_request_buffering off;
      proxy_redirect off;
      proxy_pass_header Date;
      proxy_pass_header Server;
    }
  }
}
"""
OURS = """
[proxy]
listen = ["127.0.0.1:0"]
[admin]
listen = "127.0.0.1:0"
[log]
format = "json"
[[route]]
name = "plain"
upstream = "http://127.0.0.1:%d"
auth = "none"
"""


@pytest.fixture(scope="module")
def upstream():
    def reply(arrived):
        [number] = arrived.values("x-case")
        return CASES[int(number)].answer or answer(body=b"" if arrived.method == "HEAD" else b"ok")

    upstream = Upstream(reply)
    yield upstream
    upstream.close()
    assert upstream.failures == []


@pytest.fixture(scope="module")
def nginx(upstream, tmp_path_factory):
    """A function that connects to it."""
    directory = tmp_path_factory.mktemp("nginx")
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        pytest.fail("nginx is not installed: run tests/interop/packages as root (Debian: nginx)", pytrace=False)
    (directory / "nginx.conf").write_text(NGINX % upstream.port)
    # Listens on a socket file: it cannot be told to take any free port.
    with open(directory / "stderr", "wb") as printed:
        process = subprocess.Popen([program, "-p", directory, "-c", "nginx.conf"], cwd=directory, stdin=subprocess.DEVNULL, stderr=printed)

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(wire.PATIENCE)
        sock.connect(str(directory / "nginx.sock"))
        return sock

    try:
        deadline = time.monotonic() + UP_WITHIN
        while True:
            try:
                connect().close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (directory / "stderr").read_text()
                time.sleep(0.01)  # a pause of the poll
        yield connect
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def ours(upstream, tmp_path_factory):
    sidecar = Sidecar(tmp_path_factory.mktemp("sidecar"), OURS % upstream.port)
    yield lambda: wire.connect(sidecar.proxy)
    sidecar.stop()


occurred: Counter = Counter()  # rule -> in how many cases
compared: set[str] = set()


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_both_pass_on_the_same_but_for_the_rules(upstream, nginx, ours, number):
    case = CASES[number]
    seen_by_nginx, got_by_nginx = exchange(nginx, upstream, number)
    seen, got = exchange(ours, upstream, number)
    differences = list(compare("API", seen_by_nginx, seen))
    if seen is not None:
        differences += compare("client", got_by_nginx, got)
    else:
        assert got.start.split(" ")[1] == "400", got.start
    judged = [(difference, [rule for rule in RULES if rule.explains(case, difference)]) for difference in differences]
    occurred.update({rule for _, rules in judged for rule in rules})
    compared.add(case.name)
    unexplained = [f"{difference}"[:500] for difference, rules in judged if len(rules) != 1]
    assert not unexplained, "\n".join(unexplained)


def test_every_rule_was_needed():
    assert len(CASES) == len({case.name for case in CASES}) >= 200
    if len(compared) < len(CASES):
        pytest.skip("not all requests were compared in this run")
    print(f"\n{len(CASES)} requests through nginx and through countersign; the differences:")
    for rule in RULES:
        print(f"{occurred[rule]:5} {rule.side:6} {rule.says} ({rule.source})")
    assert [rule.says for rule in RULES if not occurred[rule]] == []
