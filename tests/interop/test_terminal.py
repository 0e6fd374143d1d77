"""On a person's own machine: real shells that read what `env` prints, and a real terminal around `exec` and `init`."""

import os
import pty
import select
import signal
import subprocess
import time

import pytest
from conftest import BINARY

WITHIN = 20.0  # seconds; all of it takes a moment, and a debug build on a busy machine one more
CONFIG = """[proxy]
listen = ["127.0.0.1:7788"]
[[route]]
upstream = "https://abc123.execute-api.eu-west-1.amazonaws.com"
auth = "none"
"""
# Every character that means something to one of the shells.
ODD = "it's,a\\b\\\\c,\"d\",$HOME,${x},`id`,$(id),%PATH%,*,?,[a],~,!!,#e,;,&,|,<f>,\n,g\t,日本"
NAMES = ["COUNTERSIGN_URL", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"]


@pytest.mark.parametrize("shell, kind", [("sh", "sh"), ("bash", "sh"), ("fish", "fish")])
def test_a_shell_reads_back_what_env_was_told(shell, kind, tmp_path):
    (tmp_path / "countersign.toml").write_text(CONFIG)
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "NO_PROXY": ODD, "SHELL": f"/usr/bin/{kind}"}
    lines = subprocess.run([BINARY, "env"], env=clean, cwd=tmp_path, check=True, capture_output=True, timeout=WITHIN).stdout
    del clean["NO_PROXY"]
    script = lines + b"\nexec env -0\n"
    read = subprocess.run([shell], input=script, env=clean, cwd=tmp_path, check=True, capture_output=True, timeout=WITHIN)
    assert read.stderr == b""
    variables = dict(item.split("=", 1) for item in read.stdout.decode().split("\0") if item)
    assert {name: variables[name] for name in NAMES[:3]} == dict.fromkeys(NAMES[:3], "http://127.0.0.1:7788")
    for name in NAMES[3:]:
        assert variables[name].startswith(ODD + ",localhost,127.0.0.1,"), variables[name]


class Terminal:
    """A program that has a terminal of its own."""

    def __init__(self, arguments, cwd):
        self.output = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execve(BINARY, ["countersign", *arguments], {"PATH": "/usr/bin:/bin", "HOME": str(cwd)})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.fd)

    def type(self, text):
        os.write(self.fd, text)

    def read(self, words):
        """Reads until it has said `words`; `None` for all that it says."""
        deadline = time.monotonic() + WITHIN
        while words is None or words not in self.output:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {words!r} in {self.output!r}"
            try:
                piece = os.read(self.fd, 65536)
            except OSError:  # Linux: the other side is closed
                piece = b""
            if not piece:
                break
            self.output += piece
        assert words is None or words in self.output, self.output

    def end(self):
        self.read(None)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code, self.output


@pytest.mark.parametrize("key, name", [(b"\x03", "INT"), (b"\x1c", "QUIT")])
def test_a_key_that_interrupts_reaches_the_command_once_and_ends_it_alone(key, name, tmp_path):
    count = f"n=0; trap 'n=$((n+1)); echo heard $n' {name}; trap 'echo last $n; exit 9' TERM; echo here; "
    loop = "while kill -0 $PPID 2>/dev/null; do sleep 0.02; done"
    command = ["exec", "--upstream", "http://127.0.0.1:9", "--no-auth", "--", "sh", "-c", count + loop]
    with Terminal(command, tmp_path) as terminal:
        terminal.read(b"here")
        terminal.type(key)
        terminal.read(b"heard 1")
        # A signal that was passed on as well would have come before this one is.
        os.kill(terminal.pid, signal.SIGTERM)
        code, output = terminal.end()
    assert code == 9, output
    assert b"last 1" in output, output


def test_init_asks_a_terminal_and_check_takes_what_it_writes(tmp_path):
    with Terminal(["init"], tmp_path) as terminal:
        for question, answer in [
            (b"URL of the API", b"https://abc123.execute-api.eu-west-1.amazonaws.com/prod"),
            (b"How are requests authorised", b"sigv4"),
            (b"AWS profile", b"dev"),
            (b"ARN of a role", b""),
        ]:
            terminal.read(question)
            terminal.type(answer + b"\n")
        code, output = terminal.end()
    assert code == 0, output
    check = subprocess.run([BINARY, "check"], env={"HOME": str(tmp_path)}, cwd=tmp_path, capture_output=True, timeout=WITHIN)
    assert (check.returncode, check.stderr) == (0, b""), check
    text = (tmp_path / "countersign.toml").read_text()
    assert 'credentials = { profile = "dev" }' in text and "assume_role" not in text, text
