"""The units of systemd, by systemd's own tools, and the property list of launchd, by its format and its manual's keys."""

import configparser
import pathlib
import plistlib
import re
import shutil
import signal
import subprocess
import time
import urllib.request

import conftest
import container
import pytest
import wire
from conftest import REPOSITORY, configuration, route

SYSTEMD = REPOSITORY / "deploy/systemd"
LAUNCHD = REPOSITORY / "deploy/launchd/com.example.countersign.plist"
DRAIN = 25  # seconds: drain_timeout, if a config sets none
# Type=notify-reload came with 253; older ones say so and take it for another type.
TOO_OLD = re.compile(r".*: Failed to parse service type, ignoring: notify-reload$")


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    """A machine that the units are installed on."""
    for place in ("etc/systemd/system", "usr/local/bin", "usr/lib/systemd"):
        (tmp_path / place).mkdir(parents=True)
    for unit in SYSTEMD.glob("countersign.*"):
        shutil.copy(unit, tmp_path / "etc/systemd/system")
    binary = tmp_path / "usr/local/bin/countersign"
    binary.write_text("#!/bin/true\n")
    binary.chmod(0o755)
    shutil.copytree("/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    return tmp_path


def analyze(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, timeout=60, check=False)


def verify(root: pathlib.Path) -> list[str]:
    done = analyze("verify", f"--root={root}", "--man=no", "countersign.service", "countersign.socket")
    is_old = int(re.search(r"systemd (\d+)", analyze("--version").stdout)[1]) < 253
    return [line for line in done.stderr.splitlines() if not (is_old and TOO_OLD.match(line))]


def test_systemd_has_nothing_to_say_of_the_units(root):
    assert verify(root) == []


def test_systemd_would_find_a_slip(root):
    unit = root / "etc/systemd/system/countersign.service"
    unit.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHomes=yes"))
    assert any("ProtectHomes" in line for line in verify(root))


def test_systemd_finds_the_service_hardly_exposed(root):
    done = analyze("security", f"--root={root}", "--offline=true", "--threshold=15", "countersign.service")
    level = float(re.search(r"exposure level for countersign.service: ([\d.]+)", done.stdout)[1])
    assert done.returncode == 0 and level <= 1.5, done.stdout


def test_the_service_has_time_to_drain():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string((SYSTEMD / "countersign.service").read_text())
    assert container.seconds(unit["Service"]["TimeoutStopSec"]) >= DRAIN + 5
    assert int(unit["Service"]["MemoryMax"].removesuffix("M")) * 0.8 >= 232


def allowed_calls() -> set[str]:
    """System calls that the unit's filter lets through, by the groups that systemd has for them."""
    groups: dict[str, set[str]] = {}
    for line in analyze("syscall-filter").stdout.splitlines():
        if line.startswith("@"):
            groups[line.strip()] = group = set()
        elif line.strip() and not line.strip().startswith("#"):
            group.add(line.strip())

    def calls(name: str) -> set[str]:
        return set().union(*(calls(each) if each.startswith("@") else {each} for each in groups[name]))

    unit = (SYSTEMD / "countersign.service").read_text()
    # @default is let through whatever a filter says.
    found = calls("@default")
    for sign, names in re.findall(r"^SystemCallFilter=(~?)(.*)$", unit, re.MULTILINE):
        each = set().union(*(calls(name) for name in names.split()))
        found = found - each if sign else found | each
    return found


def test_the_service_calls_nothing_that_its_filter_forbids(tmp_path, monkeypatch, gateway, token_endpoint):
    """A life of it under strace: start, requests with a token and a signature, reload, the status page, stop."""
    trace = tmp_path / "trace"
    wrapper = tmp_path / "countersign"
    # -D leaves the traced process the child of who started it, for signals.
    wrapper.write_text(f'#!/bin/sh\nexec strace -D -f -qq -o {trace} {conftest.BINARY} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(conftest, "BINARY", wrapper)
    gateway.ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    config = configuration(route(gateway, "/signed", "/prod", "session"), route(gateway, "/bearer", "/bearer", "bearer"), token_url=token_endpoint.url)
    sidecar = conftest.Sidecar(tmp_path, config, conftest.ENVIRONMENT)
    for path in (b"/signed/x", b"/bearer/x"):
        assert wire.get(sidecar.proxy, path, method="POST", body=b"body").status == 200
    for page in ("/", "/metrics", "/api/status"):
        urllib.request.urlopen("http://%s:%d%s" % (*sidecar.admin, page), timeout=10).close()
    sidecar.process.send_signal(signal.SIGHUP)
    (tmp_path / "countersign.toml").write_text(config.replace('name = "signed"', 'name = "changed"'))
    assert wait_until(lambda: "changed" in urllib.request.urlopen("http://%s:%d/api/status" % sidecar.admin, timeout=10).read().decode())
    sidecar.stop()
    called = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))
    assert {"accept4", "connect", "openat", "prlimit64"} <= called, sorted(called)
    assert called - allowed_calls() == set()


def wait_until(condition, within: float = 20.0) -> bool:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# launchd.plist(5) of macOS 14, as far as an agent may want them.
KEYS = {
    "Label": str, "ProgramArguments": list, "EnvironmentVariables": dict, "RunAtLoad": bool, "KeepAlive": dict, "ThrottleInterval": int,
    "ExitTimeOut": int, "ProcessType": str, "Umask": int, "SoftResourceLimits": dict, "StandardOutPath": str, "StandardErrorPath": str,
}  # fmt: skip


def test_launchd_would_know_all_of_the_property_list():
    found = plistlib.loads(LAUNCHD.read_bytes(), fmt=plistlib.FMT_XML)
    assert {name: type(value) for name, value in found.items()} == {name: KEYS.get(name) for name in found}
    assert found["Label"] == LAUNCHD.stem
    assert found["KeepAlive"] == {"SuccessfulExit": False} and found["ProcessType"] in ("Background", "Standard", "Adaptive", "Interactive")
    assert found["ExitTimeOut"] >= DRAIN + 5, "launchd kills after that"
    assert found["Umask"] == 0o77
    paths = [found["ProgramArguments"][0], found["ProgramArguments"][-1], found["StandardOutPath"], found["StandardErrorPath"]]
    assert all(path.startswith("/") for path in paths), "launchd knows no ~"
    assert found["ProgramArguments"][1:3] == ["run", "--config"]
