"""Request-targets as raw bytes through the proxy: what is refused, and that what passes is what was signed and meant."""

import base64

import pytest
import targets
import wire
from conftest import configuration, route, tally
from targets import ALWAYS_REFUSED, FRAGMENT, LEADING, OK, QUOTE, SIGNED_ONLY, SLASH, TARGETS, Target

SENTINEL = b"query-values-are-never-logged"
SEED = 20260718


@pytest.fixture(scope="module")
def at_root(gateway, start):
    """One route that takes every path: the target goes in as it stands in the table. Logs at trace, searched for secrets."""
    return start(configuration(route(gateway, "/", "/prod", "session"), level="trace"), known_secrets=[SENTINEL.decode()])


@pytest.fixture(scope="module")
def below_prefixes(gateway, start):
    """Routes with a prefix that is stripped."""
    return start(
        configuration(
            route(gateway, "/orders", "/prod", "session"),
            route(gateway, "/bare", "/prod", "plain", upstream='"https://abc123.execute-api.ap-northeast-1.amazonaws.com/prod/v1"'),
            route(gateway, "/slash", "/prod", "session", allow_encoded_slash="true"),
            route(gateway, "/kept", "/prod", "session", strip_path="false"),
            route(gateway, "/open", "/open", "none"),
            route(gateway, "/open-slash", "/open", "none", allow_encoded_slash="true"),
        )
    )


def send(sidecar, target: bytes) -> wire.Answer:
    return wire.get(sidecar.proxy, target)


def assert_refused(sidecar, answer: wire.Answer, target: Target):
    """400, in our own words. A target that is no HTTP at all may be refused by the parser, without a body."""
    assert answer.status == 400, f"{target.rule}: {answer}"
    if answer.header("x-countersign-error") is None:
        assert target.rule in (targets.SYNTAX, targets.RAW), f"{target.rule}, but not in our words: {answer}"
        return
    assert answer.header("x-countersign-error") == "bad-request"
    assert answer.header("content-type").startswith("application/problem+json")
    problem = answer.json()
    assert problem["status"] == 400
    assert problem["title"] and problem["detail"] and problem["request_id"]
    sidecar.assert_no_secret_in(answer.body.decode(), "a refusal")


def assert_passed(answer: wire.Answer, expected: set[bytes]):
    assert answer.status == 200, f"{answer}"
    sent = base64.b64decode(answer.json()["target"])
    assert sent in expected, f"on the wire {sent[:300]!r}, not {expected!r:.600}"


def check(sidecar, target: Target, prefix: bytes = b"", base: bytes = b"/prod", *, signed=True, slash=False):
    """Sends one target through one route and holds the outcome against its rule."""
    rule = target.rule
    answer = send(sidecar, prefix + target.raw)
    if rule in ALWAYS_REFUSED or (rule == SLASH and not slash) or (rule in SIGNED_ONLY and signed):
        assert_refused(sidecar, answer, target)
        outcome = f"refused, {rule}"
    elif rule in (FRAGMENT, QUOTE) and answer.status == 400:
        outcome = f"refused, {rule}"
    else:
        raw = target.raw.partition(b"#")[0]
        expected = targets.on_the_wire(raw, base, signed=signed)
        assert_passed(answer, expected)
        outcome = "passed and verified" if signed else "passed byte for byte"
    tally[outcome] += 1


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.id)
def test_a_target_is_refused_or_arrives_as_signed(at_root, target):
    check(at_root, target)


# Below a prefix a leading // is an inner one, and a target that is no path cannot be put behind a prefix.
PREFIXABLE = [target for target in TARGETS if target.raw.startswith(b"/") and target.rule != LEADING]
ROUTES = {
    "orders": {"prefix": b"/orders"},
    "slash": {"prefix": b"/slash", "slash": True},
    "open": {"prefix": b"/open", "base": b"/open", "signed": False},
    "open-slash": {"prefix": b"/open-slash", "base": b"/open", "signed": False, "slash": True},
    "bare": {"prefix": b"/bare", "base": b"/prod/v1"},
}


@pytest.mark.parametrize("name", ROUTES)
def test_all_targets_below_a_prefix(below_prefixes, name, subtests):
    for target in PREFIXABLE:
        with subtests.test(target.id):
            check(below_prefixes, target, **ROUTES[name])


@pytest.mark.parametrize(
    ("name", "seed"), [("orders", SEED), ("slash", SEED + 1), ("open", SEED + 2)], ids=lambda value: str(value)
)
def test_generated_targets_below_a_prefix(below_prefixes, name, seed, subtests):
    for target in targets.generated(seed, 300):
        # Behind a prefix `//` is an inner double slash; the rest of the rules do not change.
        rule = targets.judge(ROUTES[name]["prefix"] + target.raw)
        with subtests.test(f"{seed} {target.id}"):
            check(below_prefixes, Target(target.raw, rule), **ROUTES[name])


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        (b"/orders", {b"/prod"}),
        (b"/orders?q", {b"/prod?q"}),
        (b"/orders?a=b+c", {b"/prod?a=b%20c"}),
        (b"/orders/", {b"/prod/"}),
        (b"/orders/?q=", {b"/prod/?q="}),
        (b"/orders/x", {b"/prod/x"}),
        (b"/orders//evil.test/x", {b"/prod//evil.test/x"}),
        (b"/orders/orders", {b"/prod/orders"}),
        (b"/orders/http://evil.test/", {b"/prod/http://evil.test/"}),
        (b"/bare", {b"/prod/v1"}),
        (b"/bare/x?y", {b"/prod/v1/x?y"}),
        (b"/kept", {b"/prod/kept"}),
        (b"/kept/", {b"/prod/kept/"}),
        (b"/kept/x//y", {b"/prod/kept/x//y"}),
        (b"/open/a%2Bb?a=b+c&&d=%2f", {b"/open/a%2Bb?a=b+c&&d=%2f"}),
        (b"/open?", {b"/open?"}),
        (b"/slash/%2Fa", {b"/prod/%2Fa"}),
        (b"/slash/a%2fb%2F", {b"/prod/a%2fb%2F"}),
    ],
)
def test_the_prefix_is_exchanged_for_the_base_path_with_one_slash_between(below_prefixes, sent, arrives):
    assert_passed(send(below_prefixes, sent), arrives)


@pytest.mark.parametrize(
    "target",
    [
        b"/", b"/ordersX", b"/orders.evil.test/", b"/orders@evil.test/", b"/orders:1@evil.test/", b"/orders%40evil.test", b"/orders;x",
        b"/orders%20", b"/Orders", b"/order", b"/ORDERS/x", b"/other/orders", b"/%6frders/x",
    ],
)  # fmt: skip
def test_a_path_that_only_resembles_a_route_matches_none(below_prefixes, gateway, target):
    before = gateway.requests
    answer = send(below_prefixes, target)
    assert (answer.status, answer.header("x-countersign-error")) == (404, "no-route"), f"{answer}"
    assert gateway.requests == before


@pytest.mark.parametrize("target", [b"/orders/../open/x", b"/orders/%2e%2e/open/x", b"/orders/..%2fopen", b"/slash/..%2f..%2fopen", b"/open/..;/x"])
def test_a_dot_segment_does_not_lead_from_one_route_to_another(below_prefixes, gateway, target):
    before = gateway.requests
    assert send(below_prefixes, target).status == 400
    assert gateway.requests == before


def test_a_query_value_is_in_no_log_line(at_root):
    assert send(at_root, b"/q?password=" + SENTINEL).status == 200
    # the module's end searches all output at trace level for the sentinel
    assert SENTINEL.decode() in at_root.secrets


def test_refused_targets_never_reached_the_gateway(at_root, gateway):
    before = gateway.requests
    refused = [target for target in TARGETS if target.rule in ALWAYS_REFUSED | SIGNED_ONLY | {SLASH}]
    for target in refused:
        assert send(at_root, target.raw).status == 400
    assert gateway.requests == before
    assert len(refused) > 100


def test_every_rule_is_in_the_table():
    assert {target.rule for target in TARGETS} == ALWAYS_REFUSED | SIGNED_ONLY | {OK, SLASH, FRAGMENT, QUOTE}
