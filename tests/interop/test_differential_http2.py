"""The same requests through countersign to an API on HTTP/1.1 and to one on HTTP/2: both see the same, and so does the
client. Every difference must be one that RULES names; every rule must have been needed. `-s` prints the list."""

from collections import Counter

import pytest
import wire
from conftest import Sidecar
from differential import CASES, Message, Rule, answer, compare, exchange
from upstream import Http2Upstream, Upstream

# These answers are about HTTP/1.1 connections.
ELSEWHERE = {"answer: hop-by-hop fields", "answer: nominated fields", "answer: connection: close"}
RULES = [
    Rule("API", "field host", "Host is the authority of each API", "RFC 9113 8.3.1"),
    Rule("API", "framing", "OPTIONS without content says so in HTTP/2: Content-Length: 0", "RFC 9110 8.6 lets both stand",
         lambda case, d: not case.body and case.method == "OPTIONS" and (d.reference, d.ours) == ("none", "length")),
    Rule("API", "order of different names", "fields of different names change places", "RFC 9110 5.3: their order has no meaning"),
    Rule("client", "framing", "an empty answer without a length ends with its head in HTTP/2, so its length is known", "RFC 9113 8.1",
         lambda case, d: (d.reference, d.ours) == ("chunked", "length 0")),
    Rule("client", "start", "HTTP/2 has no reason phrase: the usual one is given", "RFC 9113 8.3.2",
         lambda case, d: d.reference.split(" ")[:2] == d.ours.split(" ")[:2]),
]  # fmt: skip
OURS = """
[proxy]
listen = ["127.0.0.1:0"]
[admin]
listen = "127.0.0.1:0"
[log]
format = "json"
[upstream]
ca_file = "ca.pem"
[[route]]
name = "plain"
upstream = "%s"
auth = "none"
"""


def reply(arrived):
    [number] = arrived.values("x-case")
    return CASES[int(number)].answer or answer(body=b"" if arrived.method == "HEAD" else b"ok")


@pytest.fixture(scope="module")
def http1():
    upstream = Upstream(reply)
    yield upstream
    upstream.close()
    assert upstream.failures == []


@pytest.fixture(scope="module")
def http2():
    upstream = Http2Upstream(reply)
    yield upstream
    upstream.close()
    assert upstream.failures == []


@pytest.fixture(scope="module")
def proxy_to(http2, tmp_path_factory):
    running = []

    def begin(upstream: str):
        directory = tmp_path_factory.mktemp("sidecar")
        http2.ca.cert_pem.write_to_path(directory / "ca.pem")
        sidecar = Sidecar(directory, OURS % upstream)
        running.append(sidecar)
        return lambda: wire.connect(sidecar.proxy)

    yield begin
    for sidecar in running:
        sidecar.stop()


@pytest.fixture(scope="module")
def over_http1(proxy_to, http1):
    """A function that connects to a proxy of it."""
    return proxy_to(f"http://127.0.0.1:{http1.port}")


@pytest.fixture(scope="module")
def over_http2(proxy_to, http2):
    return proxy_to(f"https://localhost:{http2.port}")


def without_id(message: Message | None, case) -> Message | None:
    """Without the id that each request gets anew."""
    if message and not any(line.startswith(b"X-Request-Id:") for line in case.lines):
        message.fields = [pair for pair in message.fields if pair[0].lower() != b"x-request-id"]
    return message


occurred: Counter = Counter()  # rule -> in how many cases
CHOSEN = [number for number, case in enumerate(CASES) if case.name not in ELSEWHERE]


@pytest.mark.parametrize("number", CHOSEN, ids=[CASES[number].name for number in CHOSEN])
def test_http2_carries_the_same(http1, http2, over_http1, over_http2, number):
    case = CASES[number]
    pairs = [exchange(over_http1, http1, number), exchange(over_http2, http2, number)]
    (seen_1, got_1), (seen_2, got_2) = [(without_id(seen, case), without_id(got, case)) for seen, got in pairs]
    differences = list(compare("API", seen_1, seen_2))
    if seen_1 or seen_2:
        differences += compare("client", got_1, got_2)
    judged = [(difference, [rule for rule in RULES if rule.explains(case, difference)]) for difference in differences]
    occurred.update({rule for _, rules in judged for rule in rules})
    unexplained = [f"{difference}"[:500] for difference, rules in judged if len(rules) != 1]
    assert not unexplained, "\n".join(unexplained)
    assert http2.failures == []


def test_every_rule_was_needed(request):
    if len(request.session.items) < len(CHOSEN):
        pytest.skip("not all requests were compared in this run")
    print(f"\n{len(CHOSEN)} requests to an API on HTTP/1.1 and to one on HTTP/2; the differences:")
    for rule in RULES:
        print(f"{occurred[rule]:5} {rule.side:6} {rule.says} ({rule.source})")
    assert [rule.says for rule in RULES if not occurred[rule]] == []
