"""What others make of our metrics, rules and dashboard: prometheus_client's parser and Debian's promtool."""

import json
import pathlib
import re
import subprocess
import urllib.request

import pytest
import wire
import yaml
from conftest import REPOSITORY, configuration, route
from prometheus_client.openmetrics.parser import text_string_to_metric_families

RULES = REPOSITORY / "deploy/prometheus/alerts.yaml"
RUNBOOKS = "https://github.com/countersign/countersign/blob/main/docs/operations.md#"
DASHBOARD = REPOSITORY / "deploy/grafana/countersign.json"


@pytest.fixture(scope="module")
def page(start, gateway, token_endpoint) -> str:
    sidecar = start(
        configuration(
            # Nobody listens there: the metrics are there all the same.
            '[traces]\nendpoint = "http://127.0.0.1:1/v1/traces"\n',
            '[token_cache]\nurl = "redis://127.0.0.1:9"\n',
            route(gateway, "/signed", "/prod", "session"),
            route(gateway, "/bearer", "/bearer", "bearer"),
            token_url=token_endpoint.url,
        )
    )
    for path in (b"/signed/x", b"/bearer/x", b"/nowhere"):
        wire.get(sidecar.proxy, path, method="POST", body=b"body")
    with urllib.request.urlopen("http://%s:%d/metrics" % sidecar.admin) as answer:
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        return answer.read().decode()


def promtool(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, timeout=60, check=False)


def expressions() -> dict[str, str]:
    """Every query of the dashboard, by panel and letter, with its variables filled in."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "5m")
            found[f"{panel['title']} {target['refId']}"] = re.sub(r"\$\w+", ".*", query)
    return found


def names(query: str) -> set[str]:
    return set(re.findall(r"countersign_\w+", query))


def test_a_strict_parser_reads_all_of_it(page):
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert {
        "countersign_requests", "countersign_request_duration_seconds", "countersign_request_phase_duration_seconds",
        "countersign_signing_duration_seconds", "countersign_upstream_sends", "countersign_requests_in_flight",
        "countersign_request_body_bytes", "countersign_response_body_bytes", "countersign_credential_usable",
        "countersign_credential_failing", "countersign_credential_age_seconds", "countersign_credential_fetches",
        "countersign_credential_expiry_timestamp_seconds", "countersign_buffer_used_bytes", "countersign_buffer_budget_bytes",
        "countersign_build", "countersign_upstream_connections", "countersign_upstream_connections_opened",
        "countersign_log_lines_lost", "countersign_trace_spans_sent", "countersign_trace_spans_lost",
    } <= families.keys()  # fmt: skip
    assert all(family.documentation for family in families.values())
    phases = {sample.labels["phase"] for sample in families["countersign_request_phase_duration_seconds"].samples}
    assert phases == {"receive", "credential", "connect", "first_byte", "body"}
    signed = [s for s in families["countersign_signing_duration_seconds"].samples if s.name.endswith("_count") and s.labels["route"] == "signed"]
    assert [sample.value for sample in signed] == [1]
    sends = {(s.labels["route"], s.labels["connection"]): s.value for s in families["countersign_upstream_sends"].samples if s.name.endswith("_total")}
    assert sends[("signed", "new")] == 1
    connections = {s.labels["state"]: s.value for s in families["countersign_upstream_connections"].samples}
    assert connections.keys() == {"idle", "in_use"} and connections["in_use"] == 0
    [opened] = [s.value for s in families["countersign_upstream_connections_opened"].samples if s.name.endswith("_total")]
    assert opened >= connections["idle"] >= 1
    lost = {s.labels["reason"]: s.value for s in families["countersign_trace_spans_lost"].samples if s.name.endswith("_total")}
    assert lost.keys() == {"queue-full", "refused", "stopped"}


def test_promtool_finds_nothing_to_say_of_it(page):
    # promtool reads the older format, which has no units and no end mark; a counter's family there bears its suffix.
    lines = [line for line in page.splitlines() if not line.startswith(("# UNIT", "# EOF"))]
    counters = {line.split()[2] for line in lines if line.startswith("# TYPE") and line.endswith(" counter")}
    infos = {line.split()[2] for line in lines if line.startswith("# TYPE") and line.endswith(" info")}

    def older(line: str) -> str:
        parts = line.split(" ", 3)
        if line.startswith("#") and parts[2] in counters:
            return " ".join([parts[0], parts[1], parts[2] + "_total", parts[3]])
        if line.startswith("#") and parts[2] in infos:
            return " ".join([parts[0], parts[1], parts[2] + "_info", parts[3].replace("info", "gauge") if parts[1] == "TYPE" else parts[3]])
        return line

    result = promtool("check", "metrics", given="\n".join(older(line) for line in lines) + "\n")
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_rules_hold_and_fire(tmp_path):
    result = promtool("check", "rules", str(RULES))
    assert result.returncode == 0 and "11 rules found" in result.stdout, result.stdout + result.stderr
    labels = 'job="app", instance="a"'
    case = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f'countersign_credential_usable{{{labels}, credential="orders"}}', "values": "1x5 0x20"},
                    {"series": f'countersign_credential_failing{{{labels}, credential="orders"}}', "values": "0x5 1x20"},
                    {"series": f'countersign_requests_total{{{labels}, route="r", outcome="delivered", status="2xx"}}', "values": "0+90x25"},
                    {"series": f'countersign_requests_total{{{labels}, route="r", outcome="upstream-reset", status="5xx"}}', "values": "0+10x25"},
                ],
                "alert_rule_test": [
                    {"eval_time": "3m", "alertname": "CountersignCredentialMissing", "exp_alerts": []},
                    {"eval_time": "8m", "alertname": "CountersignCredentialMissing", "exp_alerts": [{
                        "exp_labels": {"severity": "critical", "job": "app", "instance": "a", "credential": "orders"},
                        "exp_annotations": {
                            "summary": "countersign has no credential orders",
                            "description": "Requests of the routes that need it get 503. The status page and /readyz say why it cannot be fetched.",
                            "runbook_url": f"{RUNBOOKS}countersigncredentialmissing",
                        }}]},
                    {"eval_time": "20m", "alertname": "CountersignUpstreamFailing", "exp_alerts": [{
                        "exp_labels": {"severity": "critical", "job": "app", "route": "r"},
                        "exp_annotations": {
                            "summary": "10% of the requests of route r get no whole answer",
                            "description": "Unreachable, TLS, timeout, reset or broken off: the outcome says which.",
                            "runbook_url": f"{RUNBOOKS}countersignupstreamfailing",
                        }}]},
                    {"eval_time": "20m", "alertname": "CountersignServerErrors", "exp_alerts": []},
                ],
            }
        ],
    }  # fmt: skip
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(case))
    result = promtool("test", "rules", str(path))
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_chapter_that_says_what_to_do():
    chapters = {line.removeprefix("### ") for line in (REPOSITORY / "docs/operations.md").read_text().splitlines() if line.startswith("### ")}
    alerts = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert chapters == {rule["alert"] for rule in alerts}
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == RUNBOOKS + rule["alert"].lower()


def test_every_query_of_the_dashboard_parses(tmp_path):
    queries = expressions()
    assert len(queries) > 20
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries.values())]
    path: pathlib.Path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    result = promtool("check", "rules", str(path))
    assert result.returncode == 0, result.stdout + result.stderr


def test_rules_and_dashboard_ask_for_what_there_is(page):
    shown = set()
    for family in text_string_to_metric_families(page):
        shown |= {sample.name for sample in family.samples}
    alerts = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    asked = set().union(*(names(query) for query in [*alerts, *expressions().values()]))
    assert asked - shown == set()
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
