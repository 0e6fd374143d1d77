"""The 19 request kinds of a web page, replayed byte for byte as Chromium sent them: each is refused, none goes on.

test_browser.py recorded them; this needs no browser. Scenes: `cross-site` is a page of evil.test, `same-site` one of
another port of localhost, `unspecified` a page that asks 0.0.0.0, `rebound` a page whose own name now means this machine.
"""

import json
import pathlib

import pytest
import wire
from conftest import Sidecar
from upstream import Upstream

RECORDED = json.loads(pathlib.Path(__file__).with_name("data").joinpath("chromium_requests.json").read_text())["requests"]
# Names for the proxy that fit what was recorded: Sec-Fetch-Site tells them apart.
HOSTS = {
    "cross-site": ["localhost", "127.0.0.1", "[::1]"],
    "same-site": ["localhost"],
    "unspecified": ["0.0.0.0", "[::]"],
    "rebound": ["evil.test", "localhost.evil.test"],
}
# The fields that tell a web page, where the Host does not.
SIGNALS = ("origin:", "sec-fetch-site:")


@pytest.fixture(scope="module")
def upstream():
    upstream = Upstream(lambda _: b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\naccess-control-allow-origin: *\r\n\r\n")
    yield upstream
    upstream.close()
    assert upstream.failures == []


@pytest.fixture(scope="module")
def sidecar(upstream, tmp_path_factory):
    sidecar = Sidecar(
        tmp_path_factory.mktemp("sidecar"),
        '[proxy]\nlisten = ["127.0.0.1:0"]\n[admin]\nlisten = "127.0.0.1:0"\n[log]\nformat = "json"\n'
        f'[[route]]\nname = "all"\nupstream = "http://127.0.0.1:{upstream.port}"\nauth = "none"\n',
    )
    yield sidecar
    sidecar.stop()


def message(sidecar, request: dict, host: str, lines=None) -> bytes:
    authority = f"{host}:{sidecar.proxy[1]}"
    first, *recorded = request["head"]
    spoken = next(line for line in recorded if line.startswith("Host: ")).removeprefix("Host: ")
    kept = [line.replace(spoken, authority) for line in (recorded if lines is None else lines)]
    return "\r\n".join([first, *kept, "", request["body"]]).encode()


@pytest.mark.parametrize(
    ("request_", "host"),
    [
        pytest.param(request, host, id=f"{request['scene']}-{request['kind']}-{host}")
        for request in RECORDED
        for host in HOSTS[request["scene"]]
    ],
)
def test_a_request_of_a_web_page_is_refused(sidecar, upstream, request_, host):
    before = upstream.connections, upstream.bytes
    method = request_["head"][0].partition(" ")[0]
    answer = wire.ask(sidecar.proxy, message(sidecar, request_, host), method)
    assert (answer.status, answer.header("x-countersign-error")) == (403, "caller-refused")
    assert [name for name, _ in answer.fields if name.lower().startswith(b"access-control-")] == []
    assert (upstream.connections, upstream.bytes) == before


@pytest.mark.parametrize("request_", RECORDED, ids=lambda request: f"{request['scene']}-{request['kind']}")
def test_without_what_tells_a_web_page_the_same_request_passes(sidecar, upstream, request_):
    """So it is these fields, or the Host, that the refusal rests on, and nothing else a program may send."""
    before = len(upstream.arrived)
    method, target, _ = request_["head"][0].split(" ")
    lines = [line for line in request_["head"][1:] if not line.lower().startswith(SIGNALS)]
    answer = wire.ask(sidecar.proxy, message(sidecar, request_, "localhost", lines), method)
    assert answer.status == 200, f"{answer}"
    [arrived] = upstream.arrived[before:]
    assert (arrived.method, arrived.target, arrived.body) == (method, target.encode(), request_["body"].encode())


def test_every_kind_is_recorded_in_every_scene():
    scenes = {scene: {request["kind"] for request in RECORDED if request["scene"] == scene} for scene in HOSTS}
    assert {scene: len(kinds) for scene, kinds in scenes.items()} == dict.fromkeys(HOSTS, 19)
    told = [request for request in RECORDED if any(line.lower().startswith(SIGNALS) for line in request["head"])]
    # To names that are not this machine's, Chromium often tells nothing: there the Host alone shows the page.
    assert {request["scene"] for request in RECORDED if request not in told} == {"unspecified", "rebound"}
