"""The pages of docs/: configs that pass `check` and say what was there before, links that lead somewhere, sums that add up."""

import pathlib
import re
import shlex
import subprocess
import tomllib

import pytest
import yaml
from conftest import BINARY, REPOSITORY

PAGE = (REPOSITORY / "docs/migration.md").read_text()
AFTER = {name: text for text, name in re.findall(r"^```toml\n(# config: (\S+)\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)}
BEFORE = {name: yaml.safe_load(text) for text, name in re.findall(r"^```yaml\n(# before: (\S+)\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)}
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "ORDERS_CLIENT_ID": "141ko0tsl9qpba05m4p19179m2", "ORDERS_CLIENT_SECRET": "not-a-secret-0123456789",
    "ORDERS_API_KEY": "not-a-key-0123456789", "ORDERS_PASSWORD": "not-a-password-0123456789",
}  # fmt: skip


def countersign(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(BINARY), *words], env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("name", ["aws-sigv4-proxy", "envoy-signing", "envoy-injector", "token-script", "fixed-user"])
def test_what_comes_after_passes_check(name, tmp_path):
    assert len(AFTER) == 5
    secret = tmp_path / "client_secret"
    secret.write_text("not-a-secret-0123456789")
    secret.chmod(0o600)
    config: pathlib.Path = tmp_path / "countersign.toml"
    config.write_text(AFTER[name].replace("/run/secrets/orders/client_secret", str(secret)))
    done = countersign("check", "--config", str(config))
    assert done.returncode == 0 and "warning" not in done.stderr, done.stdout + done.stderr


def test_migrate_prints_what_the_page_says():
    words = shlex.split(re.search(r"^countersign (migrate -- .*)$", PAGE, re.MULTILINE)[1])
    done = countersign(*words)
    assert done.returncode == 0, done.stderr
    assert "# config: aws-sigv4-proxy\n" + done.stdout == AFTER["aws-sigv4-proxy"]


def test_the_signing_filter_said_the_same():
    before, after = BEFORE["envoy-signing"], tomllib.loads(AFTER["envoy-signing"])
    signing = before["http_filters"][0]["typed_config"]
    auth, (route,) = after["auth"]["iam"], after["route"]
    role = signing["credential_provider"]["assume_role_credential_provider"]
    assert (auth["region"], auth.get("service", "execute-api")) == (signing["region"], signing["service_name"])
    assert (auth["assume_role"]["arn"], auth["assume_role"]["external_id"]) == (role["role_arn"], role["external_id"])
    sent = before["virtual_hosts"][0]["routes"][0]
    assert route["upstream"] + route["path"] + "/" == "https://" + signing["host_rewrite"] + sent["route"]["prefix_rewrite"]
    assert sent["match"]["prefix"] == route["path"] + "/" and sent["route"]["timeout"] == route["response_timeout"]


def test_the_credential_injector_said_the_same():
    before, after = BEFORE["envoy-injector"], tomllib.loads(AFTER["envoy-injector"])
    oauth = before["http_filters"][0]["typed_config"]["credential"]["typed_config"]
    auth = after["auth"]["orders"]
    assert (auth["token_url"], auth["scopes"]) == (oauth["token_endpoint"]["uri"], oauth["scopes"])
    assert auth["client_id"] == oauth["client_credentials"]["client_id"]
    assert {"BASIC_AUTH": "basic", "URL_ENCODED_BODY": "body"}[oauth["client_credentials"]["auth_type"]] == auth["client_auth"]


def test_links_within_the_docs_lead_somewhere():
    for path in [*sorted((REPOSITORY / "docs").glob("*.md")), *REPOSITORY.glob("*.md"), *(REPOSITORY / "deploy").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            target, _, anchor = link.partition("#")
            if target.startswith(("http", "mailto")):
                continue
            page = (path.parent / target).resolve() if target else path
            assert page.exists(), f"{path.name}: {link}"
            if anchor and page.suffix == ".md":
                assert anchor in anchors(page.read_text()), f"{path.name}: {link}"


def anchors(text: str) -> set[str]:
    """What GitHub makes of headings, and the anchors that the page sets itself."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)"', text))


def test_the_table_of_memory_limits_follows_from_the_formula():
    page = (REPOSITORY / "docs/operations.md").read_text()
    rows = re.findall(r"^  \| (\d+) MiB( and more)? \| ([\d,]+) \| ([\d,]+) \| (\d+) MiB \|$", page, re.MULTILINE)
    assert len(rows) == 4
    # What the defaults take beyond the 24 MiB that are always there.
    wanted = 1024 * 48 / 1024 + 512 * 192 / 1024 + 64
    for limit, _, connections, requests, bodies in rows:
        share = min(1, (int(limit) * 0.8 - 24) / wanted)
        told = [int(number.replace(",", "")) for number in (connections, requests, bodies)]
        assert told == [int(1024 * share), int(512 * share), int(64 * share)], limit
