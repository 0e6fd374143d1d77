"""A real browser: pages of strangers reach nothing and read nothing; the page of a listed origin works.

Chromium's own guard for local addresses is switched off, so that only ours is left.
"""

import html
import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import configuration, route

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")

# Everything a page can do without asking. What it could read of an answer is told as "read".
ATTACKS = """
const told = [];
const settle = (name, promise) => promise.then(text => told.push([name, "read", text]), () => told.push([name, "nothing", ""]));
const event = (element, url, parent) => new Promise((resolve, reject) => {
    element.onload = () => resolve("loaded"); element.onerror = reject; setTimeout(reject, 3000);
    element[element.tagName === "LINK" ? "href" : "src"] = url; (parent || document.body).append(element);
});
const text = response => response.ok ? response.text() : Promise.reject();
const attacks = [];
for (const base of BASES) {
    const url = base + "/signed";
    attacks.push(settle(base + " cors", fetch(url).then(text)));
    attacks.push(settle(base + " cors with a field", fetch(url, {headers: {"x-team": "evil"}}).then(text)));
    attacks.push(settle(base + " cors PUT", fetch(url, {method: "PUT", body: "x"}).then(text)));
    attacks.push(settle(base + " no referrer", fetch(url, {referrerPolicy: "no-referrer"}).then(text)));
    fetch(url, {mode: "no-cors"}).catch(() => {});
    fetch(url, {mode: "no-cors", method: "POST", body: "x"}).catch(() => {});
    attacks.push(settle(base + " image", event(new Image(), url)));
    const script = document.createElement("script");
    attacks.push(settle(base + " script", event(script, url)));
    const link = document.createElement("link"); link.rel = "stylesheet";
    attacks.push(settle(base + " style", event(link, url, document.head)));
    const frame = document.createElement("iframe"); frame.src = url; document.body.append(frame);
    const boxed = document.createElement("iframe"); boxed.sandbox = "allow-scripts";
    boxed.srcdoc = `<script>fetch("${url}").catch(() => {}); fetch("${url}", {method: "POST", mode: "no-cors"}).catch(() => {})</` + "script>";
    document.body.append(boxed);
    const named = document.createElement("iframe"); named.name = "into-" + attacks.length; document.body.append(named);
    const form = document.createElement("form");
    form.action = url; form.method = "POST"; form.enctype = "text/plain"; form.target = named.name;
    document.body.append(form); form.submit();
    navigator.sendBeacon(url, "x");
    new EventSource(url).onmessage = message => told.push([base + " events", "read", message.data]);
    try { new WebSocket(url.replace("http", "ws")).onopen = () => told.push([base + " socket", "read", ""]); } catch {}
    const anchor = document.createElement("a"); anchor.href = "#"; anchor.ping = url; document.body.append(anchor); anchor.click();
}
Promise.all(attacks).then(() => setTimeout(() => { document.body.textContent = JSON.stringify(told); }, 500));
"""
# What the developer of a local web app does.
APP = """
const tell = what => { document.body.textContent = JSON.stringify(what); };
fetch(BASES[0] + "/signed/orders", {method: "PUT", headers: {"content-type": "application/json", "x-team": "blue"}, body: "{}"})
    .then(async response => tell([response.status, response.headers.get("x-request-id") !== null, (await response.text()).length > 0]))
    .catch(error => tell(["refused", String(error)]));
"""
LEAVE = "location.href = BASES[0] + '/signed';"
POST = """
const form = document.createElement("form"); form.action = BASES[0] + "/signed"; form.method = "POST"; form.enctype = "text/plain";
document.body.append(form); form.submit();
"""


class Pages(ThreadingHTTPServer):
    """Serves one page whose script is set by the test, under any name."""

    def __init__(self):
        pages = self
        self.script = ""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = f"<!doctype html><body><script>{pages.script}</script></body>".encode()
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def pages():
    server = Pages()
    yield server
    server.shutdown()
    server.server_close()


def browse(url: str, folder) -> str:
    """The text of a page after its scripts have run."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
            "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable",
            "--host-resolver-rules=MAP evil.test 127.0.0.1, MAP rebind.test 127.0.0.1",
            f"--user-data-dir={folder}/profile", "--virtual-time-budget=15000", "--dump-dom", url,
        ],
        capture_output=True, timeout=90, env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )  # fmt: skip
    page = done.stdout.decode()
    return html.unescape(page.partition("<body>")[2].rpartition("</body>")[0]) if "<body>" in page else page


def sidecar_for(gateway, start, lines: str = ""):
    config = configuration(route(gateway, "/signed", "/prod", "session"))
    return start(config.replace('listen = ["127.0.0.1:0"]\n', f'listen = ["127.0.0.1:0"]\n{lines}', 1))


def test_pages_of_strangers_reach_and_read_nothing(gateway, start, pages, tmp_path):
    sidecar = sidecar_for(gateway, start)
    port = sidecar.proxy[1]
    before = gateway.requests
    bases = [f"http://{host}:{port}" for host in ("localhost", "127.0.0.1", "0.0.0.0", "rebind.test")]
    pages.script = f"const BASES = {json.dumps(bases)};{ATTACKS}"
    # A stranger's page, and one of another program on this machine.
    for host in ("evil.test", "localhost"):
        told = json.loads(browse(f"http://{host}:{pages.server_port}/", tmp_path))
        assert len(told) >= 7 * len(bases), "the page has tried everything"
        assert [tried for tried in told if tried[1] == "read"] == []
    refused = sidecar.output.count('"caller-refused"')
    assert refused >= 50, f"the attacks arrived, only {refused} of them were refused"
    assert gateway.requests == before


@pytest.mark.parametrize("script", [LEAVE, POST], ids=["link", "form"])
def test_a_page_cannot_send_its_visitor_here(gateway, start, pages, tmp_path, script):
    sidecar = sidecar_for(gateway, start)
    before = gateway.requests
    pages.script = f'const BASES = ["http://localhost:{sidecar.proxy[1]}"];{script}'
    assert "caller-refused" in browse(f"http://evil.test:{pages.server_port}/", tmp_path)
    assert gateway.requests == before


@pytest.mark.parametrize("host", ["rebind.test", "0.0.0.0"])
def test_a_name_of_their_own_leads_nowhere(gateway, start, tmp_path, host):
    sidecar = sidecar_for(gateway, start)
    before = gateway.requests
    assert "caller-refused" in browse(f"http://{host}:{sidecar.proxy[1]}/signed", tmp_path)
    assert gateway.requests == before


def test_a_page_of_a_listed_origin_works_and_others_do_not(gateway, start, pages, tmp_path):
    origin = f"http://localhost:{pages.server_port}"
    sidecar = sidecar_for(gateway, start, f'allowed_origins = ["{origin}"]\n')
    pages.script = f'const BASES = ["http://localhost:{sidecar.proxy[1]}"];{APP}'
    before = gateway.requests
    assert json.loads(browse(f"http://127.0.0.1:{pages.server_port}/", tmp_path))[0] == "refused"
    assert gateway.requests == before
    assert json.loads(browse(f"{origin}/", tmp_path)) == [200, True, True]
    assert gateway.requests == before + 1
