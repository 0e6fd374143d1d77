"""Real web pages in a real browser against a running countersign: nothing reaches the API, nothing is learnt.

A page asks in 19 ways, under each name that leads to the proxy, from each place a hostile page can come from. The same
page first asks a server that lets everything in: it shows that the requests are sent and that the page would read the
answers, so that silence elsewhere is a refusal. What Chromium itself holds back does not count as our refusal either:
the access log says what arrived. `BLESS=1` writes the requests down for test_browser_replay.py.
"""

import contextlib
import http.server
import json
import os
import pathlib
import queue
import re
import socket
import threading
import urllib.parse
from dataclasses import dataclass

import pytest
import wire
from chromium import Chromium
from conftest import Sidecar, tally
from upstream import Arrived, Upstream

DATA = pathlib.Path(__file__).with_name("data")
RECORDED = DATA / "chromium_requests.json"
SECRET = "only-the-api-knows-this"
REFUSED = "caller-refused"
PATIENCE = 60.0  # seconds until a page has reported; 10 on a machine at rest

KINDS = [
    "img", "img-crossorigin", "img-credentials", "script", "css", "iframe", "form-text-plain", "fetch-no-cors-post",
    "fetch-cors-get", "fetch-no-referrer", "beacon", "ping", "event-source", "websocket", "sandbox-null-origin",
    "preflight-put", "preflight-header", "navigation", "top-form-post",
]  # fmt: skip
# Ways that tell a page nothing even of a server that lets everything in.
BLIND = {
    "iframe", "form-text-plain", "fetch-no-cors-post", "fetch-no-referrer", "beacon", "ping", "websocket", "navigation",
    "top-form-post",
}  # fmt: skip
# What a page of the public network may still send to a local address (docs/rules.md 1.7).
TOP_LEVEL = {"navigation", "top-form-post"}
# Where a hostile page comes from: a public site; the same where the browser does not tell public from local, as
# browsers did before Local Network Access; another program's port on this machine.
PAGES = ["public", "local", "localhost"]
# The names in a URL that lead to this machine; `rebound.test` is a name of the attacker's own.
HOSTS = ["localhost", "127.0.0.1", "[::1]", "rebound.test", "0.0.0.0"]

# Scenes before the server that lets everything in: the page's site, and the name it uses.
CONTROLS = {"cross-site": ("local", "localhost"), "same-site": ("localhost", "localhost"), "unspecified": ("local", "0.0.0.0")}
REBINDING, REBOUND, ADMIN = "rebinding", "rebound", "admin"
# Scenes before a proxy that lists one origin in `allowed_origins`.
LISTED, UNLISTED = "listed", "unlisted"
# What asks by CORS, without the user's credentials: this a listed origin may read.
READ_BY_CORS = {"img-crossorigin", "fetch-cors-get", "event-source", "preflight-put", "preflight-header"}


def permissive(arrived: Arrived) -> bytes:
    """Lets any page read, in the form that each kind of request can read."""
    kind = arrived.target.decode("latin-1").rpartition("/")[2]
    media, body = "text/html", SECRET
    if kind.startswith("img"):
        media, body = "image/svg+xml", '<svg xmlns="http://www.w3.org/2000/svg" width="7" height="7"/>'
    elif kind == "script":
        media, body = "text/javascript", f"window.leaked = '{SECRET}'"
    elif kind == "css":
        media, body = "text/css", "#probe { width: 123px }"
    elif kind == "event-source":
        media, body = "text/event-stream", f"data: {SECRET}\n\n"
    [origin] = arrived.values("origin") or [b"*"]
    lines = [
        "HTTP/1.1 200 OK", f"content-type: {media}", f"content-length: {len(body)}", "cache-control: no-store",
        f"access-control-allow-origin: {origin.decode()}", "access-control-allow-credentials: true",
        "access-control-allow-methods: PUT, POST", "access-control-allow-headers: content-type, x-countersign-token",
        "access-control-allow-private-network: true",
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (b"" if arrived.method == "HEAD" else body.encode())


class Site:
    """Serves the hostile page and takes its reports."""

    def __init__(self):
        self._reports: dict[str, queue.Queue[dict]] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer((DATA / "attack.html").read_bytes())

            def do_POST(self):
                outer._queue(self.path.rpartition("/")[2]).put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.answer(b"")

            def answer(self, body: bytes):
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def page(self, host: str, target: str, tag: str) -> str:
        """The URL of a page, on this site under the name `host`, that attacks `target`."""
        asked = {"target": target, "tag": tag, "report": f"http://127.0.0.1:{self.port}/report/{tag}"}
        return f"http://{host}/page?{urllib.parse.urlencode(asked)}"

    def report(self, tag: str) -> dict[str, dict]:
        """By kind: the event that the page saw, and what it could read."""
        try:
            return self._queue(tag).get(timeout=PATIENCE)
        except queue.Empty:
            pytest.fail(f"the page {tag} did not report", pytrace=False)

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _queue(self, tag: str) -> "queue.Queue[dict]":
        return self._reports.setdefault(tag, queue.Queue())


class Rebinding:
    """An address whose meaning changes once the page has come from it: first `site`, then whatever is at `then`.

    To the browser this is DNS rebinding: one name, one port, one origin, and another machine behind it.
    """

    def __init__(self, site: tuple[str, int], then: tuple[str, int]):
        self._next = [site]
        self._then = then
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(sock,), daemon=True).start()

    def _relay(self, near: socket.socket):
        # The first request gets the page, on whatever connection it comes; Chromium opens spare ones ahead of it.
        try:
            first = near.recv(65536)
            if not first:
                return near.close()
            far = socket.create_connection(self._next.pop() if self._next else self._then)
            far.sendall(first)
            threading.Thread(target=self._copy, args=(far, near), daemon=True).start()
            self._copy(near, far)
        except OSError:
            near.close()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket):
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Stage:
    """All the actors, and the scenes they play; each scene is one page."""

    def __init__(self, directory: pathlib.Path, closing: contextlib.ExitStack):
        """What it starts is ended by `closing`, whatever fails later."""

        def sidecar(name: str, *values) -> Sidecar:
            (directory / name).mkdir()
            sidecar = Sidecar(directory / name, CONFIG % values)
            closing.callback(sidecar.stop)
            return sidecar

        def closed(part):
            closing.callback(part.close)
            return part

        self.upstream, self.visited, self.bait = (closed(Upstream(permissive)) for _ in range(3))
        self.sites = {page: closed(Site()) for page in PAGES}
        listed = [f"http://localhost:{self.sites['localhost'].port}"]
        self.sidecar = sidecar("to-nobody", "[]", self.upstream.port, self.visited.port)
        self.open_to_one = sidecar("to-one", json.dumps(listed), self.visited.port, self.visited.port)
        site = ("127.0.0.1", self.sites["local"].port)
        self.rebinding = {
            "proxy": closed(Rebinding(site, self.address("127.0.0.1"))),
            "bait": closed(Rebinding(site, ("127.0.0.1", self.bait.port))),
        }
        self.browser = closed(
            Chromium(
                "--host-resolver-rules=MAP evil.test 127.0.0.1, MAP rebound.test 127.0.0.1",
                f"--ip-address-space-overrides=127.0.0.1:{self.sites['public'].port}=public",
            )
        )

    def address(self, host: str) -> tuple[str, int]:
        """Where the proxy listens for this name."""
        return next(address for address in self.sidecar.addresses["proxy"] if (":" in address[0]) == (host == "[::1]"))

    def attack(self, page: str, target: str, tag: str):
        """A page of that site attacks what is at `target`."""
        site = self.sites[page]
        host = "localhost" if page == "localhost" else "evil.test"
        self.browser.open(site.page(f"{host}:{site.port}", target, tag))

    def rebind(self, onto: str, tag: str):
        """A page attacks its own origin, which has become another server meanwhile."""
        host = f"evil.test:{self.rebinding[onto].port}"
        self.browser.open(self.sites["local"].page(host, f"http://{host}", tag))

    def all_asked(self, tag: str) -> bool:
        """Whether all kinds came to the server that lets everything in; beacons and pings may come after the report."""
        paths = {f"/{tag}/{kind}" for kind in KINDS}
        return self.bait.wait_for(lambda arrived: paths <= {request.target.decode() for request in arrived})


CONFIG = """
[proxy]
listen = ["127.0.0.1:0", "[::1]:0"]
allowed_origins = %s
[admin]
listen = "127.0.0.1:0"
[log]
format = "json"
[[route]]
name = "attacked"
path = "/"
upstream = "http://127.0.0.1:%d"
auth = "none"
[[route]]
name = "visited"
path = "/visited"
upstream = "http://127.0.0.1:%d"
auth = "none"
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with contextlib.ExitStack() as closing:
        yield Stage(tmp_path_factory.mktemp("browser"), closing)


def tag_of(page: str, host: str) -> str:
    return f"{page}-at-{host.strip('[]').replace(':', '-')}"


@dataclass(frozen=True)
class Scene:
    """One page and what it asked."""

    tag: str
    page: str  # which site it came from
    report: dict[str, dict]

    @property
    def learnt(self) -> dict[str, str]:
        return {kind: found["read"] for kind, found in self.report.items() if found["read"]}


@pytest.fixture(scope="module")
def scenes(stage):
    """All pages play at once; each of them by its tag, once it has reported."""
    cast = {tag_of(page, host): page for page in PAGES for host in HOSTS}
    for page in PAGES:
        for host in HOSTS:
            stage.attack(page, f"http://{host}:{stage.address(host)[1]}", tag_of(page, host))
    stage.rebind("proxy", REBINDING)
    stage.attack("local", f"http://localhost:{stage.sidecar.admin[1]}/metrics?", ADMIN)
    for tag, (page, host) in CONTROLS.items():
        stage.attack(page, f"http://{host}:{stage.bait.port}", tag)
    stage.rebind("bait", REBOUND)
    for tag, page in ((LISTED, "localhost"), (UNLISTED, "local")):
        stage.attack(page, f"http://localhost:{stage.open_to_one.proxy[1]}", tag)
    cast |= dict.fromkeys([REBINDING, ADMIN, REBOUND, UNLISTED], "local") | {LISTED: "localhost"} | {tag: page for tag, (page, _) in CONTROLS.items()}
    return {tag: Scene(tag, page, stage.sites[page].report(tag)) for tag, page in cast.items()}


@pytest.fixture(scope="module")
def outcomes(stage, scenes):
    """By path, what came of each request that reached the proxy; beacons and pings may come after the report."""
    awaited = {f"/{REBINDING}/{kind}" for kind in KINDS} | {
        f"/{tag_of(page, host)}/{kind}" for page in PAGES for host in HOSTS for kind in (TOP_LEVEL if page == "public" else KINDS)
    }
    arrived = stage.sidecar.wait_for_access(lambda entries: awaited <= {entry["path"] for entry in entries})
    found = {entry["path"]: entry["outcome"] for entry in stage.sidecar.access()}
    assert arrived, f"Chromium did not send {sorted(awaited - found.keys())}"
    return found


@pytest.mark.parametrize("tag", [*CONTROLS, REBOUND])
def test_the_page_does_ask_and_would_read(stage, scenes, tag):
    assert stage.all_asked(tag)
    assert scenes[tag].report.keys() == set(KINDS)
    blind = {"beacon", "ping", "websocket"} if tag == REBOUND else BLIND  # a page may read all of its own origin
    assert scenes[tag].learnt.keys() == set(KINDS) - blind
    assert stage.bait.failures == []


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_learns_nothing(scenes, page, host):
    scene = scenes[tag_of(page, host)]
    assert scene.report.keys() == set(KINDS)
    assert scene.learnt == {}
    # An element that loads would tell that there is something to load
    assert {kind for kind, found in scene.report.items() if found["event"] in ("load", "message", "open")} == set()


def test_a_page_whose_name_was_rebound_reads_our_refusals_only(scenes):
    read = scenes[REBINDING].learnt
    assert "fetch-cors-get" in read, "the browser takes it for the page's own origin"
    for text in read.values():
        assert json.loads(text.removeprefix("403 "))["code"] == REFUSED


def test_the_admin_listener_tells_a_web_page_nothing(stage, scenes):
    assert wire.get(stage.sidecar.admin, b"/metrics").status == 200
    assert scenes[ADMIN].learnt == {}


def test_what_arrived_was_refused_by_us_and_no_byte_went_on(stage, outcomes):
    assert {path: outcome for path, outcome in outcomes.items() if outcome != REFUSED} == {}
    assert (stage.upstream.connections, stage.upstream.bytes) == (0, 0)
    for page in PAGES:
        for host in HOSTS:
            arrived = sum(f"/{tag_of(page, host)}/{kind}" in outcomes for kind in KINDS)
            tally[f"of {len(KINDS)} requests of a {page} page to {host} were refused by us, the rest by Chromium"] = arrived


def test_the_page_of_a_listed_origin_reads_what_it_asks_for_by_cors(stage, scenes):
    assert scenes[LISTED].learnt.keys() == READ_BY_CORS
    assert scenes[LISTED].learnt["preflight-put"] == f"200 {SECRET}"


def test_a_page_of_another_origin_learns_nothing_beside_it(stage, scenes):
    assert scenes[UNLISTED].learnt == {}
    awaited = {f"/{UNLISTED}/{kind}" for kind in KINDS}
    assert stage.open_to_one.wait_for_access(lambda entries: awaited <= {entry["path"] for entry in entries})
    assert {entry["outcome"] for entry in stage.open_to_one.access() if entry["path"] in awaited} == {REFUSED}


def test_a_person_may_still_look(stage, outcomes):
    before = stage.upstream.connections
    stage.browser.open(f"{stage.sidecar.url}/visited/by-a-person")
    assert stage.visited.wait_for(lambda arrived: any(request.target == b"/visited/by-a-person" for request in arrived))
    assert stage.upstream.connections == before == 0


def recorded(stage) -> list[dict]:
    """What Chromium sent to the server that lets everything in; the ports are not those of this run."""
    ports = {str(site.port): port for site, port in zip(stage.sites.values(), ("8001", "8002", "3000"), strict=True)}
    ports |= {str(stage.bait.port): "8080", str(stage.rebinding["bait"].port): "8080"}

    def first(tag: str, kind: str) -> dict:
        arrived = next(request for request in stage.bait.arrived if request.target == f"/{tag}/{kind}".encode())
        text = re.sub(r"(?<=:|A)\d{4,5}\b", lambda match: ports.get(match[0], match[0]), arrived.head.decode())
        return {"scene": tag, "kind": kind, "head": text.removesuffix("\r\n\r\n").split("\r\n"), "body": arrived.body.decode()}

    return [first(tag, kind) for tag in [*CONTROLS, REBOUND] for kind in KINDS]


def signals(requests: list[dict]) -> dict:
    """What tells a web page in each of them."""
    told = ("host:", "origin:", "sec-fetch-site:")
    return {
        (request["scene"], request["kind"]): (request["head"][0], {line for line in request["head"] if line.lower().startswith(told)})
        for request in requests
    }


def test_chromium_still_tells_what_was_recorded(stage, scenes):
    assert all(stage.all_asked(tag) for tag in [*CONTROLS, REBOUND])
    if os.environ.get("BLESS"):
        RECORDED.write_text(json.dumps({"browser": stage.browser.version, "requests": recorded(stage)}, indent=1) + "\n")
    assert signals(recorded(stage)) == signals(json.loads(RECORDED.read_text())["requests"]), "BLESS=1 records them anew"
