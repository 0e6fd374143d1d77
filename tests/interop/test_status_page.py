"""The status page in a real browser, before a proxy under mixed traffic: numbers move, failures explain themselves.

Pictures of it go to the folder in `PICTURES`, by day and by night, wide and narrow, for whoever wants to look.
"""

import json
import os
import pathlib
import re
import socket
import threading
import urllib.request

import pytest
import wire
from chromium import Chromium
from conftest import configuration, route
from tab import Tab
from upstream import Upstream

LOOKS = {"wide": (1400, 1000), "narrow": (400, 900)}


def reply(arrived) -> bytes:
    status = {b"/slow": "504 Gateway Timeout", b"/no": "403 Forbidden"}.get(arrived.target.split(b"?")[0], "200 OK")
    return f"HTTP/1.1 {status}\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok".encode()


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def api():
    upstream = Upstream(reply)
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def sidecar(start, gateway, token_endpoint, api):
    plain = f'[[route]]\nname = "legacy"\npath = "/legacy"\nstrip_path = true\nupstream = "http://127.0.0.1:{api.port}"\nauth = "none"\nrequest_headers.set = {{ x-api-key = {{ env = "API_KEY" }} }}\n'
    down = f'[[route]]\nname = "down"\npath = "/down"\nupstream = "http://127.0.0.1:{closed_port()}"\nauth = "none"\n'
    locked = (
        f'[auth.partner]\nkind = "client-credentials"\ntoken_url = "http://127.0.0.1:{closed_port()}/oauth2/token"\n'
        'client_id = "partner-client"\nclient_secret = { env = "CLIENT_SECRET" }\nscopes = ["partner/read"]\n'
    )
    stage = "/bearer"
    config = configuration(
        route(gateway, "/orders", stage, "bearer"),
        route(gateway, "/stock", "/iam", "session"),
        plain,
        down,
        route(gateway, "/partner", stage, "partner"),
        locked,
        token_url=token_endpoint.url,
    )
    return start(config)


@pytest.fixture(scope="module")
def browser():
    chromium = Chromium()
    yield chromium
    chromium.close()


class Traffic:
    """Requests of all sorts, until the end of the block."""

    def __init__(self, address):
        self._address = address
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        targets = [b"/legacy/items/7", b"/legacy/a/rather/long/path/of/an/older/program", b"/legacy/slow", b"/orders/42", b"/legacy/no", b"/stock/tea"]
        number = 0
        while not self._end.wait(0.02):
            wire.get(self._address, targets[number // 2 % len(targets)] if number % 2 else b"/legacy/items/8")
            number += 1

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(10)


def admin_url(sidecar) -> str:
    return "http://%s:%d/" % sidecar.admin


def test_the_page_lives_and_explains_what_fails(sidecar, browser):
    assert wire.get(sidecar.proxy, b"/legacy/items/1?secret=do-not-show").status == 200
    tab = Tab(browser, admin_url(sidecar))
    tab.look(*LOOKS["wide"], "light")
    assert tab.wait("document.getElementById('link').dataset.link === 'live'"), "no events"
    assert tab.run("document.querySelectorAll('#requests > li').length") >= 1
    total = "document.querySelector('.tile p + p')?.textContent"
    with Traffic(sidecar.proxy):
        first = tab.run(total)
        assert tab.wait(f"{total} !== {json.dumps(first)}"), "the number of requests stands still"
        second = tab.run(total)
        assert tab.wait(f"{total} !== {json.dumps(second)}")
        assert tab.wait("parseFloat(document.querySelector('.tile .big').textContent) > 5"), "no rate"
        assert tab.wait("document.querySelectorAll('#requests > li').length === 100"), "the list does not fill"
        assert tab.wait("document.querySelector('tr[data-key=legacy] .spark .failed').getAttribute('d') !== ''")
        # A row that a person reads stays where it is, and open.
        tab.run("document.querySelector('#requests summary').click()")
        held = "document.querySelector('#requests > li').dataset.number"
        number = tab.run(held)
        assert tab.wait("!document.getElementById('newer').hidden"), "nothing is held back"
        assert tab.run(held) == number and tab.run("document.querySelectorAll('details[open]').length") == 1
        tab.run("document.querySelector('#requests summary').click()")
        assert tab.wait(f"{held} !== {json.dumps(number)}"), "the list does not go on"

    for path in (b"/down/x", b"/partner/y", b"/nowhere"):
        assert wire.get(sidecar.proxy, path).status in (404, 502, 503)
    assert tab.wait("[...document.querySelectorAll('#requests .path')].some((path) => path.textContent === '/partner/y')")
    expected = {
        "/down/x": ["502", "The upstream cannot be reached", "Nothing was sent", "ost likely port-closed", "onnection refused"],
        "/partner/y": ["503", "There is no valid credential", "could not be fetched", "ost likely port-closed", "oauth2/token"],
        "/nowhere": ["404", "No route takes this request", "countersign explain"],
        "/legacy/no": ["403", "The API refused the request", "compare the URL", "x-api-key"],
    }
    for path, words in expected.items():
        row = f"[...document.querySelectorAll('#requests > li')].find((item) => item.querySelector('.path').textContent === {json.dumps(path)})"
        assert tab.wait(f"!!({row})"), path
        tab.run(f"{row}.querySelector('summary').click()")
        said = tab.run(f"{row}.innerText")
        assert [word for word in words if word not in said] == [], said
        tab.run(f"{row}.querySelector('summary').click()")
    trouble = tab.run("document.getElementById('trouble').innerText")
    assert "Credential partner" in trouble and "cannot be fetched" in trouble
    causes = "document.getElementById('causes').innerText"
    for words in ("port-closed", "route down", "route partner", "once, last", "Fix:", "Seen:"):
        assert words in tab.run(causes), tab.run(causes)
    assert wire.get(sidecar.proxy, b"/down/again").status == 502
    assert tab.wait(f"{causes}.includes('2 times, last')"), "the count of a cause stands still"
    assert tab.trouble == []


def test_the_list_can_be_filtered_and_the_log_turned_up(sidecar, browser):
    for number in range(3):
        wire.get(sidecar.proxy, b"/legacy/only-this-%d" % number)
    tab = Tab(browser, admin_url(sidecar))
    assert tab.wait("document.getElementById('link').dataset.link === 'live'")
    shown = "[...document.querySelectorAll('#requests > li:not([hidden]) .path')].map((path) => path.textContent)"
    type_in = "(text) => { const box = document.getElementById('filter'); box.value = text; box.dispatchEvent(new Event('input')); }"
    tab.run(f"({type_in})('ONLY-this 200')")
    assert sorted(tab.run(shown)) == [f"/legacy/only-this-{number}" for number in range(3)]
    tab.run(f"({type_in})('nothing like it')")
    assert tab.run(shown) == [] and tab.run("!document.getElementById('none-match').hidden")
    tab.run(f"({type_in})('')")
    tab.run("(() => { const box = document.getElementById('show'); box.value = 'failed'; box.dispatchEvent(new Event('change')); })()")
    assert set(tab.run("[...new Set([...document.querySelectorAll('#requests > li:not([hidden])')].map((item) => item.className))]")) <= {"failed"}
    tab.run("(() => { const box = document.getElementById('level'); box.value = 'debug'; box.dispatchEvent(new Event('change')); })()")
    assert tab.wait("document.getElementById('level').title !== ''")
    assert tab.run("document.getElementById('level').title") == "debug\n"
    with urllib.request.urlopen(admin_url(sidecar) + "api/log-level") as answer:
        assert answer.read() == b"debug\n"
    request = urllib.request.Request(admin_url(sidecar) + "api/log-level", method="DELETE")
    with urllib.request.urlopen(request) as answer:
        assert answer.read() == b"info\n"
    assert tab.trouble == []


def test_nothing_of_it_is_a_secret_or_from_elsewhere(sidecar, browser):
    for path in ("", "api/status", "page.js", "page.css", "icon.svg"):
        with urllib.request.urlopen(admin_url(sidecar) + path) as answer:
            text = answer.read().decode()
        sidecar.assert_no_secret_in(text, path)
        assert "do-not-show" not in text, path
        if path in ("", "page.js", "page.css"):
            loaded = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"')\s>]+)", text)
            assert [place for place in loaded if "//" in place] == [], path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("look", LOOKS)
def test_it_fits_its_window_in_both_schemes(sidecar, browser, look, scheme, tmp_path):
    tab = Tab(browser, admin_url(sidecar))
    width, height = LOOKS[look]
    tab.look(width, height, scheme)
    assert tab.wait("document.getElementById('link').dataset.link === 'live'")
    assert tab.run("document.documentElement.scrollWidth") <= width, "it is wider than its window"
    lightness = "(color) => { const [r, g, b] = color.match(/\\d+/g).map(Number); return (r + g + b) / 3; }"
    ground = tab.run(f"({lightness})(getComputedStyle(document.body).backgroundColor)")
    text = tab.run(f"({lightness})(getComputedStyle(document.body).color)")
    assert (ground > 200 > 100 > text) if scheme == "light" else (ground < 60 < 180 < text)
    tab.run("[...document.querySelectorAll('#requests > li')].find((item) => item.className === 'failed')?.querySelector('summary').click()")
    folder = pathlib.Path(os.environ.get("PICTURES", tmp_path))
    tab.shoot(folder / f"status-{look}-{scheme}.png")
    tab.run("document.querySelector('#requests').previousElementSibling.scrollIntoView()")
    tab.shoot(folder / f"status-{look}-{scheme}-requests.png")
    tab.run("document.querySelector('#causes').previousElementSibling.scrollIntoView()")
    tab.shoot(folder / f"status-{look}-{scheme}-causes.png")
    assert tab.trouble == []
