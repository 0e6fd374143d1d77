"""The Dockerfile, as far as it can be judged without an engine: hadolint, its words, and the files that it would be given."""

import fnmatch
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import container
import pytest
from conftest import REPOSITORY

DOCKERFILE = REPOSITORY / "Dockerfile"
PACKAGE = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["package"]


def hadolint(path: pathlib.Path) -> subprocess.CompletedProcess:
    program = pathlib.Path(sys.executable).with_name("hadolint")
    return subprocess.run([str(program), "--no-color", str(path)], capture_output=True, text=True, timeout=60, check=False)


def instructions() -> list[tuple[str, str]]:
    """(word, the rest) of each, lines put together."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_hadolint_has_nothing_to_say(tmp_path):
    done = hadolint(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    broken = tmp_path / "Dockerfile"
    broken.write_text(DOCKERFILE.read_text().replace('ENTRYPOINT ["/countersign"]', "ENTRYPOINT /countersign"))
    assert "DL3025" in hadolint(broken).stdout


def test_the_image_has_no_shell_and_wants_none():
    said = instructions()
    last = said[max(at for at, (word, _) in enumerate(said) if word == "FROM") :]
    assert last[0] == ("FROM", "scratch") and "RUN" not in {word for word, _ in last}
    told = dict(last)
    assert told["USER"] == f"{container.NOBODY}:{container.NOBODY}"
    assert json.loads(told["ENTRYPOINT"]) == ["/countersign"] and json.loads(told["CMD"]) == ["run"]
    health = re.search(r"CMD (\[.*\])", told["HEALTHCHECK"])[1]
    assert json.loads(health) == ["/countersign", "healthcheck", "--ready"]
    assert {rest.split()[-1] for word, rest in last if word == "COPY"} == {"/etc/ssl/certs/ca-certificates.crt", "/LICENSE", "/countersign"}


def test_versions_are_those_of_the_package():
    arguments = dict(rest.split("=", 1) for word, rest in instructions() if word == "ARG")
    toolchain = tomllib.loads((REPOSITORY / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert arguments["VERSION"] == PACKAGE["version"]
    assert arguments["RUST"] == f"rust:{toolchain}-bookworm" and ("ENV", f"RUSTUP_TOOLCHAIN={toolchain}") in instructions()


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> pathlib.Path:
    """What `docker build .` would send: files under version control but for what .dockerignore leaves out."""
    folder = tmp_path_factory.mktemp("context")
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if any(fnmatch.fnmatch(f"/{name}", pattern) or f"/{name}".startswith(f"{pattern}/") for pattern in ignored):
            continue
        source = REPOSITORY / name
        if source.exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, folder / name)
    return folder


def test_the_build_is_given_all_that_it_reads(context):
    done = subprocess.run(
        ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"],
        cwd=context, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for package in json.loads(done.stdout)["packages"]:
        for target in package["targets"]:
            assert pathlib.Path(target["src_path"]).exists(), target["name"]
    for source in context.joinpath("src").rglob("*.rs"):
        for included in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
            assert (source.parent / included).exists(), f"{source.name}: {included}"
    for _, rest in (each for each in instructions() if each[0] == "COPY" and each[1].startswith("--from=build /src/")):
        assert (context / rest.split()[1].removeprefix("/src/")).exists(), rest


def test_the_build_hides_where_it_ran(context):
    """`make dist`, which the image runs, tells the compiler and the C compiler to write no path of this machine."""
    done = subprocess.run(["make", "--dry-run", "dist"], cwd=context, capture_output=True, text=True, timeout=60, check=True)
    assert f"--remap-path-prefix={context}=/src" in done.stdout and f"-ffile-prefix-map={context}=/src" in done.stdout
    assert "--locked" in done.stdout and "target-feature=+crt-static" in done.stdout
