"""Runs a function of a test in a network and mount namespace of its own.

Inside, the function owns every port of 127.0.0.1, the link-local addresses of the ECS and EKS agents, and the meaning
of every host name, so a config can be run as a user would write it. Nothing outside sees any of it, and there is no way
out: the namespace has a loopback device and nothing else.
"""

import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

ECS_AGENT = "169.254.170.2"
EKS_AGENT = "169.254.170.23"
INSTANCE_METADATA = "169.254.169.254"


def run_inside(function, *arguments, timeout, environment=None):
    """Calls `function(*arguments)`, a module-level function, in a namespace; what it raises fails the caller.

    Arguments travel as JSON. Everything it starts is in one process group, which is ended when the time is up.
    """
    # There is no way out, so no proxy either.
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = subprocess.Popen(
        [*_unshare(), sys.executable, "-B", __file__, function.__module__, function.__name__, json.dumps(arguments)],
        env=inherited | (environment or {}), start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"{function.__name__}{arguments} was not done after {timeout} s:\n{output}", pytrace=False)
    if process.returncode != 0:
        pytest.fail(f"{function.__name__}{arguments} failed in its namespace:\n{output}", pytrace=False)
    return output


def _unshare():
    """Root must be able to: CI runs as root, and a skip there would hide that the README is not tested."""
    missing = [tool for tool in ("unshare", "mount", "ip") if not shutil.which(tool)]
    if missing:
        pytest.fail(f"not installed: {', '.join(missing)} (Debian: util-linux, mount, iproute2)", pytrace=False)
    flags = ["--net", "--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net", "--mount"]
    tried = subprocess.run(["unshare", *flags, "true"], capture_output=True, text=True)
    if tried.returncode == 0:
        return ["unshare", *flags]
    reason = f"no network namespace to be had here: {tried.stderr.strip()}"
    if os.geteuid() == 0:
        pytest.fail(f"{reason}; as root in a container this takes CAP_SYS_ADMIN", pytrace=False)
    pytest.skip(f"{reason}; run as root or allow unprivileged user namespaces")


def settle(names, addresses=(), lookup="files"):
    """Inside: brings lo up, gives it `addresses`, and lets `names` mean 127.0.0.1 for everything that starts here.

    `lookup` is how names are looked up (nsswitch.conf).
    """
    _command("ip", "link", "set", "lo", "up")
    for address in addresses:
        _command("ip", "address", "add", f"{address}/32", "dev", "lo")
    lines = ["127.0.0.1 localhost", *(f"127.0.0.1 {name}" for name in names)]
    _mount_over("/etc/hosts", "\n".join(lines) + "\n")
    # Name services such as systemd-resolved answer through a socket that leads out of the namespace.
    if os.path.exists("/etc/nsswitch.conf"):
        _mount_over("/etc/nsswitch.conf", f"passwd: files\ngroup: files\nhosts: {lookup}\nservices: files\n")


def _mount_over(path, text):
    # unshare made every mount private, so this one is seen by nobody else and goes away with the namespace.
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory, "file")
        file.write_text(text)
        file.chmod(0o644)
        _command("mount", "--bind", str(file), path)  # the mount keeps the file when its name is gone


def _command(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*json.loads(sys.argv[3]))
