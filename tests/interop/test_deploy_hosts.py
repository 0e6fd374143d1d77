"""The units of systemd, by systemd's own tools, and the property list of launchd, by its format and its manual's keys."""

import configparser
import pathlib
import plistlib
import re
import shutil
import subprocess

import container
import pytest
from conftest import REPOSITORY

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
