"""Debian's Chromium without a window, driven over a pipe: a fresh profile, no debugging port, nothing asked of the net."""

import itertools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading

import pytest

PATIENCE = 30.0  # seconds; a cold start on a busy machine takes three


class Chromium:
    """A running browser. Its pages do everything; this only opens them (DevTools protocol, Target domain)."""

    def __init__(self, *flags: str, proxy: str | None = None, home: str | None = None):
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            pytest.fail("chromium is not installed: run tests/interop/packages as root (Debian: chromium)", pytrace=False)
        self.version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=PATIENCE).stdout.strip()
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Chromium reads commands from descriptor 3 and writes answers to 4, each ended by a NUL.
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "chromium", program,
             "--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}",
             "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-gpu", "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
             "--disable-dev-shm-usage", "--disable-popup-blocking",
             f"--proxy-server={proxy}" if proxy else "--no-proxy-server", *flags, "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env=os.environ | ({"HOME": home} if home else {}),
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._numbers = itertools.count(1)
        self._answers: queue.Queue[dict] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.call("Browser.getVersion")

    def open(self, url: str):
        """A new tab, as if a person had typed the address."""
        self.call("Target.createTarget", url=url)

    def call(self, method: str, **parameters) -> dict:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._answers.get(timeout=PATIENCE)
            assert answer, f"the browser has ended with {self.process.poll()}"
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def close(self):
        try:
            self.call("Browser.close")
            self.process.wait(10)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, 9)  # its own session: only what it started
                self.process.wait(10)
            self._out.close()
            self._profile.cleanup()

    def _read(self):
        held = b""
        while piece := self._in.read1(65536):
            *whole, held = (held + piece).split(b"\0")
            for message in whole:
                self._answers.put(json.loads(message))
        self._answers.put({})
