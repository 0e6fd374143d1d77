"""One tab of the browser, looked into: scripts run in it, what its console says, and what it looks like."""

import base64
import json
import pathlib

from chromium import PATIENCE, Chromium


class Tab:
    """A tab under the DevTools protocol. `trouble` is all that its console complained about."""

    def __init__(self, browser: Chromium, url: str):
        self._browser = browser
        self.trouble: list[str] = []
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        assert self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def call(self, method: str, **parameters) -> dict:
        browser = self._browser
        number = next(browser._numbers)
        message = {"id": number, "sessionId": self._session, "method": method, "params": parameters}
        browser._out.write(json.dumps(message).encode() + b"\0")
        browser._out.flush()
        while True:
            answer = browser._answers.get(timeout=PATIENCE)
            assert answer, "the browser has ended"
            self._note(answer)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def run(self, script: str):
        """The value of an expression; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 20.0) -> bool:
        """Whether the condition came true in time. The page is looked at with every frame."""
        return self.run(
            f"""new Promise((done) => {{
                const end = performance.now() + {seconds * 1000};
                const look = () => {{ if ({condition}) done(true); else if (performance.now() > end) done(false); else setTimeout(look, 50); }};
                look();
            }})"""
        )

    def look(self, width: int, height: int, scheme: str):
        """A window of this size, by day or by night."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def shoot(self, path: pathlib.Path):
        """What of the page is in the window, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _note(self, message: dict):
        if message.get("sessionId") != self._session or "method" not in message:
            return
        kind, details = message["method"], message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.trouble.append(f"exception: {details['exceptionDetails']}")
        elif kind == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            self.trouble.append(f"console: {details['args']}")
        elif kind == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.trouble.append(f"log: {details['entry']['text']}")
        elif kind == "Network.loadingFailed" and not details.get("canceled"):
            self.trouble.append(f"not loaded: {details}")
