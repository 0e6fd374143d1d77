"""Runs countersign the way a container runtime would, as far as a machine without one can: read-only root, user 65532.

A `Container` says what a recipe says; `of_pod` reads it out of Kubernetes manifests. `running` gives it a root directory
with its binary, its files and root certificates in it, nothing else, and no capability. What is missing of a real runtime: seccomp
profiles, cgroups, and the image's own layers.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import tomllib
import urllib.error
import urllib.request

from conftest import BINARY

NOBODY = 65532  # the image's user
UP_WITHIN = 20.0
MIB = 1024 * 1024


@dataclasses.dataclass
class Container:
    """What starts countersign; `files` are those that the recipe mounts. A plain value, so that it can travel as JSON."""

    args: list[str]
    environment: dict[str, str]
    files: dict[str, str]
    user: str = f"{NOBODY}"
    # Folders that a kubelet fills, and the mode it gives their files.
    volumes: dict[str, int] = dataclasses.field(default_factory=dict)

    def config(self) -> str:
        """The config's text, wherever the recipe puts it."""
        if text := self.environment.get("COUNTERSIGN_CONFIG_TOML"):
            return text
        if "--config" in self.args:
            return self.files[self.args[self.args.index("--config") + 1]]
        return self.files["/etc/countersign/config.toml"]

    def parsed(self) -> dict:
        return tomllib.loads(self.config())

    def hosts(self) -> list[str]:
        """The names that its requests go to."""
        return sorted(set(re.findall(r'https://([^/":]+)', self.config())))

    def drain_timeout(self) -> float:
        return seconds(self.parsed().get("proxy", {}).get("drain_timeout", "25s"))

    def need(self) -> int:
        """Bytes of memory that it takes at most, by the formula in docs/operations.md."""
        proxy = self.parsed().get("proxy", {})
        connections, requests = proxy.get("max_connections", 1024), proxy.get("max_in_flight", 512)
        return 24 * MIB + 48 * 1024 * connections + 192 * 1024 * requests + size(proxy.get("buffer_budget", "64MiB"))


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)?", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, None: 1}[unit]


def size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Ki|KiB|Mi|MiB|Gi|GiB|M|K|G|m|k|g)?", text).groups()
    return int(number) * {"k": 1024, "m": MIB, "g": 1024 * MIB, None: 1}[unit and unit[0].lower()]


# Kubernetes: manifests as dicts, as `kubectl kustomize` prints them.


def pod_specs(documents: list[dict]):
    """(name, pod spec) of every workload."""
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield f"{document['kind']}/{document['metadata']['name']}", spec["template"]["spec"]


def of_spec(spec: dict) -> dict:
    """Its container `countersign`."""
    (found,) = (one for one in [*spec.get("initContainers", []), *spec["containers"]] if one["name"] == "countersign")
    return found


def of_pod(spec: dict, documents: list[dict], secrets: dict[str, dict[str, str]]) -> Container:
    """The sidecar of a pod, with the Secrets it asks for. A reference that leads nowhere is a KeyError."""
    container = of_spec(spec)
    maps = {one["metadata"]["name"]: one["data"] for one in documents if one["kind"] == "ConfigMap"}
    environment = {}
    for variable in container.get("env", []):
        come = variable.get("valueFrom", {})
        if reference := come.get("secretKeyRef"):
            environment[variable["name"]] = secrets[reference["name"]][reference["key"]]
        elif reference := come.get("fieldRef"):
            environment[variable["name"]] = {"metadata.namespace": "shop"}[reference["fieldPath"]]
        else:
            environment[variable["name"]] = variable["value"]
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    files, modes = {}, {}
    for mount in container.get("volumeMounts", []):
        volume = volumes[mount["name"]]
        if "configMap" in volume:
            entries = maps[volume["configMap"]["name"]]
        elif "secret" in volume:
            entries = secrets[volume["secret"]["secretName"]]
        else:
            sources = volume["projected"]["sources"]
            entries = {one["serviceAccountToken"]["path"]: secrets["service-account"]["token"] for one in sources}
        files |= {f"{mount['mountPath']}/{name}": text for name, text in entries.items()}
        modes[mount["mountPath"]] = volume.get("secret", {}).get("defaultMode", 0o644)
    user = container.get("securityContext", {}).get("runAsUser") or spec["securityContext"]["runAsUser"]
    return Container(container["args"], environment, files, str(user), modes)


# Running one, inside a namespace (netns.py).


class Running:
    """A countersign in its root directory."""

    def __init__(self, container: Container, root: pathlib.Path, log: pathlib.Path):
        self.container, self.root, self.log = container, root, log
        self.process = None

    def command(self, *words: str) -> list[str]:
        """The words a runtime would execute, in the same root and as the same user."""
        user = self.container.user.partition(":")[0]
        # The user changes after the root does; whoever is not root then has lost every capability.
        return [program("setpriv"), "--no-new-privs", program("chroot"), f"--userspec={user}:{user}", "--groups=", str(self.root), *words]

    def execute(self, *words: str) -> subprocess.CompletedProcess:
        """Runs the binary beside the running one: what a health check of the runtime does."""
        return subprocess.run(
            self.command(*words), env=self.container.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )

    def start(self) -> None:
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                self.command("/countersign", *self.container.args), env=self.container.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def status(self) -> dict[str, str]:
        """What the kernel says of its process."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def stop(self) -> tuple[int, float]:
        """Its exit code after SIGTERM, and how long it took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60), time.monotonic() - begun


@contextlib.contextmanager
def rooted(container: Container, authority: str | None = None):
    """A `Running` that has not been started; `authority` is the PEM of the roots it is to trust."""
    with tempfile.TemporaryDirectory() as directory:
        root, log = pathlib.Path(directory, "root"), pathlib.Path(directory, "log")
        root.mkdir()
        _mount("--bind", str(root), str(root))
        try:
            _fill(root, container, authority)
            # A bind mount takes "ro" in a second step alone.
            _mount("-o", "remount,ro,bind", str(root))
            running = Running(container, root, log)
            yield running
            if running.process and running.process.poll() is None:
                running.process.kill()
                running.process.wait()
        finally:
            _run("umount", "--recursive", "--lazy", str(root))


def _fill(root: pathlib.Path, container: Container, authority: str | None) -> None:
    (root / "etc/ssl/certs").mkdir(parents=True)
    shutil.copy(BINARY, root / "countersign")
    for name in ("hosts", "nsswitch.conf", "resolv.conf"):
        if os.path.exists(f"/etc/{name}"):
            shutil.copy(f"/etc/{name}", root / "etc" / name)
    if authority:
        (root / "etc/ssl/certs/ca-certificates.crt").write_text(authority)
    for path, text in container.files.items():
        place = root / path.lstrip("/")
        mode = container.volumes.get(str(pathlib.PurePath(path).parent))
        if mode is not None:
            # A volume of Kubernetes: what is seen leads through a link that is swapped when anything changes.
            folder = place.parent / "..2026_11_21_10_00_00.123456789"
            folder.mkdir(parents=True, exist_ok=True)
            if not (place.parent / "..data").is_symlink():
                (place.parent / "..data").symlink_to(folder.name)
            place.symlink_to(f"..data/{place.name}")
            place = folder / place.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode or 0o644)
        os.chown(place, 0, int(container.user.partition(":")[0]))  # fsGroup
    for source in ["/proc", "/dev", *libraries()]:
        place = root / source.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        _mount("--bind", source, str(place))


def program(name: str) -> str:
    """Where it is: the environment of what is run has no PATH."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def libraries() -> list[str]:
    """Folders of the loader and libraries of a binary that is not static, as the image's is."""
    described = _run("ldd", str(BINARY))
    found = re.findall(r"(/\S+?)(?:\s|$)", described.stdout) if described.returncode == 0 else []
    return sorted({str(pathlib.Path(path).parent) for path in found if path != str(BINARY)})


def _mount(*words: str) -> None:
    done = _run("mount", *words)
    if done.returncode != 0:
        raise RuntimeError(f"mount {' '.join(words)}: {done.stderr.strip()}")


def _run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(words, capture_output=True, text=True, check=False)


def probe(address: str) -> int | None:
    """The status of a probe, None without an answer."""
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return answer.status
    except urllib.error.HTTPError as answer:
        return answer.code
    except OSError:
        return None


def wait_for(running: Running, address: str, status: int = 200) -> None:
    """What a kubelet or an agent does with a probe: asks until it says yes."""
    deadline = time.monotonic() + UP_WITHIN
    while probe(address) != status:
        assert running.process.poll() is None, f"ended with {running.process.returncode}:\n{running.log.read_text()}"
        assert time.monotonic() < deadline, f"{address} does not say {status}:\n{running.log.read_text()}"
        time.sleep(0.05)
