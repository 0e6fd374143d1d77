"""Odd client headers on SigV4 and bearer routes: each set verifies or is refused clearly; what poses as us never arrives."""

from typing import NamedTuple

import pytest
import wire
from conftest import API_KEY, SESSION_KEYS, configuration, content, route

# What countersign adds or owns; everything else that arrives must have been sent by the client.
OURS = {
    b"host", b"via", b"authorization", b"x-amz-date", b"x-amz-security-token", b"x-amz-content-sha256", b"content-length",
    b"x-request-id", b"x-api-key", b"x-team", b"x-tag",
}  # fmt: skip
PASSES, REFUSED, EITHER = "verifies", "refused", "verifies or is refused"


class Case(NamedTuple):
    name: str
    lines: list[bytes]  # as sent
    outcome: str = PASSES
    gone: str = ""  # names, by spaces, that must not arrive; all other names sent must, byte for byte
    status: tuple[int, ...] = (400,)  # if refused
    method: str = "GET"
    body: bytes = b""


BIG = content(3000).hex().encode()  # 6,000 printable bytes

CASES = [
    # Fields that pass, byte for byte
    Case("nothing", []),
    Case("user-agent", [b"User-Agent: curl/8.0 (x; y) \"z\""]),
    Case("no user-agent is invented", [b"Accept: */*"]),
    Case("a browser-like set", [b"Accept: text/html, */*;q=0.1", b"Accept-Language: ja,en;q=0.5", b"Accept-Encoding: gzip, br", b"DNT: 1", b"Cache-Control: no-cache"]),
    Case("cookies in one line", [b"Cookie: a=1; b=\"2\"; c=x=y"]),
    Case("cookies in two lines", [b"Cookie: a=1", b"Cookie: b=2"]),
    Case("a repeated field", [b"X-Many: 1", b"X-Many: 2", b"X-Many: 2", b"X-Many: 0"]),
    Case("a repeated field, apart", [b"X-Many: 1", b"X-Other: o", b"X-Many: 2"]),
    Case("fifty lines of one name", [b"X-Many: %d" % n for n in range(50)]),
    Case("double spaces", [b"X-Odd: a  b   c"]),
    Case("spaces around a value", [b"X-Odd:   a b   "]),
    Case("no space after the colon", [b"X-Odd:a"]),
    Case("a tab inside", [b"X-Odd: a\tb\t\tc"]),
    Case("tabs around a value", [b"X-Odd:\ta\t"]),
    Case("obs-text", [b"X-Odd: caf\xe9 \x80\xff"]),
    Case("UTF-8", ["X-Odd: café あ 😀".encode()]),
    Case("an empty value", [b"X-Odd:", b"X-Odd2: "]),
    Case("every token character", [b"!#$%&'*+-.^`|~09az: v"]),
    Case("commas, quotes, semicolons, colons", [b"X-Odd: \"a, b\";c:d=e,,f"]),
    Case("odd case", [b"x-ODD-cAsE: KeptValue"]),
    Case("a 8 KB value", [b"X-Odd: " + BIG[:6000] + b"x" * 2192]),
    Case("sixty fields", [b"X-F%d: %d" % (n, n) for n in range(60)]),
    Case("trace ids", [b"X-Amzn-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1", b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"tracestate: a=b", b"baggage: c=d"]),
    Case("date", [b"Date: Sun, 06 Nov 1994 08:49:37 GMT"]),
    Case("conditions and ranges", [b"If-None-Match: W/\"a\", \"b\"", b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", b"Range: bytes=0-1,5-"]),
    Case("method override", [b"X-HTTP-Method-Override: DELETE"]),
    Case("node's fetch", [b"sec-fetch-mode: cors", b"accept-language: *", b"user-agent: node"]),
    Case("underscores that resemble nothing", [b"my_field: 1"]),
    # Content-Type is signed or not, but arrives as sent
    Case("content-type with charset", [b"Content-Type: application/json; charset=utf-8"], method="POST", body=b"{}"),
    Case("content-type with quotes and spaces", [b"Content-Type:  multipart/form-data;  boundary=\"a  b, c\" ; x=y "], method="POST", body=b"--"),
    Case("content-type with a tab", [b"Content-Type: text/plain;\tcharset=utf-8"], method="POST", body=b"x"),
    Case("content-type with capitals", [b"CONTENT-TYPE: Text/Plain; Charset=UTF-8"], method="PUT", body=b"x"),
    Case("content-type without a body", [b"Content-Type: text/plain"]),
    Case("content-type empty", [b"Content-Type:"], method="POST", body=b"x"),
    Case("content-type with obs-text", [b"Content-Type: text/plain; x=\xe9"], EITHER, method="POST", body=b"x"),
    Case("content-type twice", [b"Content-Type: text/plain", b"Content-Type: text/html"], EITHER, method="POST", body=b"x"),
    Case("content-encoding and digest", [b"Content-Encoding: gzip", b"Content-MD5: XrY7u+Ae7tCTyyK7j1rNww==", b"Content-Language: ja"], method="POST", body=b"x"),
    # x-amz-* of the client's own must be signed, all of them
    Case("x-amz-meta", [b"x-amz-meta-a: 1"]),
    Case("x-amz-meta in capitals", [b"X-AMZ-META-A: Value"]),
    Case("x-amz-meta repeated", [b"x-amz-meta-a: 2", b"x-amz-meta-a: 1", b"x-amz-meta-b: 0"]),
    Case("x-amz-meta with spaces around", [b"x-amz-meta-a:  a b c  "]),
    Case("x-amz-meta with double spaces", [b"x-amz-meta-a: a  b   c"], EITHER),
    Case("x-amz-meta empty", [b"x-amz-meta-a:"]),
    Case("x-amz-meta with commas and quotes", [b"x-amz-meta-a: a,b, \"c d\""]),
    Case("x-amz-meta in UTF-8", ["x-amz-meta-a: café".encode()], EITHER),
    Case("x-amz-meta with a tab", [b"x-amz-meta-a: a\tb"], EITHER),
    Case("x-amz-meta with obs-text", [b"x-amz-meta-a: caf\xe9"], EITHER),
    Case("x-amz-target and the like", [b"X-Amz-Target: DynamoDB_20120810.GetItem", b"X-Amz-Invocation-Type: Event", b"X-Amz-User-Agent: aws-sdk-js/3"]),
    # What poses as an identity never arrives
    Case("authorization, basic", [b"Authorization: Basic dXNlcjpwYXNz"], gone="authorization"),
    Case("authorization, bearer", [b"Authorization: Bearer eyJ.client.token"], gone="authorization"),
    Case("authorization, signed", [b"Authorization: AWS4-HMAC-SHA256 Credential=AKIDCLIENT/20250101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=" + b"0" * 64], gone="authorization"),
    Case("authorization twice", [b"Authorization: Basic dXNlcjpwYXNz", b"authorization: Bearer x"], gone="authorization"),
    Case("authorization empty", [b"Authorization:"], gone="authorization"),
    Case("x-amz-date", [b"X-Amz-Date: 20250101T000000Z"], gone="x-amz-date"),
    Case("x-amz-date twice", [b"X-Amz-Date: 20250101T000000Z", b"x-amz-date: 20350101T000000Z"], gone="x-amz-date"),
    Case("x-amz-security-token", [b"X-Amz-Security-Token: of-the-client"], gone="x-amz-security-token"),
    Case("x-amz-content-sha256, unsigned", [b"X-Amz-Content-Sha256: UNSIGNED-PAYLOAD"], gone="x-amz-content-sha256", method="POST", body=b"body"),
    Case("x-amz-content-sha256, of another body", [b"X-Amz-Content-Sha256: " + b"a" * 64], gone="x-amz-content-sha256", method="POST", body=b"body"),
    Case("x_amz_security_token", [b"x_amz_security_token: of-the-client"], gone="x_amz_security_token x-amz-security-token"),
    Case("x_amz_date and mixed twins", [b"x_amz_date: 1", b"x-amz_date: 2", b"X_Amz-Content_Sha256: 3"], gone="x_amz_date x-amz_date x_amz-content_sha256"),
    Case("the whole set at once", [b"Authorization: a", b"X-Amz-Date: b", b"X-Amz-Security-Token: c", b"X-Amz-Content-Sha256: d", b"X-Keep: e"], gone="authorization x-amz-date x-amz-security-token x-amz-content-sha256"),
    Case("x-api-key on a route that sets it", [b"X-Api-Key: of-the-client"], gone="x-api-key"),
    Case("x_api_key, its twin", [b"x_api_key: of-the-client"], gone="x_api_key x-api-key"),
    Case("x-countersign-token", [b"x-countersign-token: guess"], gone="x-countersign-token"),
    # Hop-by-hop, and what Connection names
    Case("connection: close", [b"Connection: close"], gone="connection"),
    Case("connection: keep-alive", [b"Connection: keep-alive", b"Keep-Alive: timeout=5"], gone="connection keep-alive"),
    Case("te: trailers", [b"TE: trailers", b"Connection: TE"], gone="te connection"),
    Case("te: gzip", [b"TE: gzip;q=0.5"], gone="te"),
    Case("a nominated field", [b"Connection: X-A", b"X-A: 1", b"X-B: 2"], gone="connection x-a"),
    Case("two connection lines", [b"Connection: X-A", b"Connection: close, x-b", b"X-A: 1", b"X-B: 2", b"X-C: 3"], gone="connection x-a x-b"),
    Case("a nominated field that comes before", [b"X-A: 1", b"X-Z: z", b"Connection: x-a , ,"], gone="connection x-a"),
    Case("connection nominates authorization", [b"Connection: authorization", b"Authorization: Bearer x"], gone="connection authorization"),
    Case("connection nominates host and x-amz-date", [b"Connection: host, x-amz-date, x-amz-security-token, x-api-key"], gone="connection"),
    Case("connection nominates content-length", [b"Connection: content-length"], gone="connection", method="POST", body=b"body"),
    Case("connection nominates a cookie", [b"Connection: cookie", b"Cookie: a=1"], gone="connection cookie"),
    Case("connection empty", [b"Connection:"], gone="connection"),
    Case("upgrade to websocket", [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="], gone="connection upgrade"),
    Case("upgrade to h2c", [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"], gone="connection upgrade http2-settings"),
    Case("proxy fields", [b"Proxy-Authorization: Basic dXNlcjpwYXNz", b"Proxy-Connection: keep-alive"], gone="proxy-authorization proxy-connection"),
    Case("trailer announced, none sent", [b"Trailer: X-T"], gone="trailer"),
    Case("framing twins", [b"Transfer_Encoding: chunked", b"Content_Length: 5"], gone="transfer_encoding content_length"),
    # Expect is answered here
    Case("expect: 100-continue", [b"Expect: 100-continue"], gone="expect", method="POST", body=b"body"),
    Case("expect: 100-continue without a body", [b"Expect: 100-continue"], gone="expect"),
    Case("expect: something else", [b"Expect: 200-ok"], REFUSED, status=(417,)),
    # Forwarding fields are stripped by default
    Case("x-forwarded", [b"X-Forwarded-For: 10.0.0.1", b"X-Forwarded-Proto: http", b"X-Forwarded-Host: evil.test", b"X-Forwarded-Port: 1"], gone="x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port"),
    Case("forwarded, x-real-ip", [b"Forwarded: for=10.0.0.1", b"X-Real-IP: 10.0.0.1"], gone="forwarded x-real-ip"),
    # Not HTTP, or too much of it
    Case("a folded line", [b"X-Odd: a\r\n b"], REFUSED),
    Case("a space before the colon", [b"X-Odd : a"], REFUSED),
    Case("no colon", [b"X-Odd"], REFUSED),
    Case("an empty name", [b": a"], REFUSED),
    Case("a bare CR in a value", [b"X-Odd: a\rb"], REFUSED),
    Case("a NUL in a value", [b"X-Odd: a\x00b"], REFUSED),
    Case("a control character in a value", [b"X-Odd: a\x01b"], REFUSED),
    Case("0xFF in a name", [b"X-\xff: a"], REFUSED),
    Case("a space in a name", [b"X Odd: a"], REFUSED),
    Case("a second host", [b"Host: localhost"], REFUSED),
    Case("a hundred and twenty fields", [b"X-F%d: %d" % (n, n) for n in range(120)], REFUSED, status=(431,)),
    Case("a 40 KB value", [b"X-Odd: " + b"x" * 40_000], REFUSED, status=(431,)),
]  # fmt: skip


@pytest.fixture(scope="module")
def sidecar(gateway, start, token_endpoint):
    """Two SigV4 routes, with a session token and an API key, and without either; one with a bearer token. Logs at trace,
    searched for secrets."""
    added = {"request_headers": '{ set = { x-api-key = { env = "API_KEY" }, x-team = "blue" } }'}
    return start(
        configuration(
            route(gateway, "/session", "/prod", "session", **added),
            route(gateway, "/plain", "/prod", "plain"),
            route(gateway, "/bearer", "/bearer", "bearer"),
            level="trace",
            token_url=token_endpoint.url,
        ),
        known_secrets=["eyJ.client.token", "dXNlcjpwYXNz"],
    )


def sent_fields(lines: list[bytes]) -> dict[bytes, list[bytes]]:
    """Values by lower-case name, in order, without the white space around them."""
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        fields.setdefault(name.lower(), []).append(value.strip(b" \t"))
    return fields


@pytest.mark.parametrize("path", ["/session", "/plain", "/bearer"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_header_set_verifies_or_is_refused_clearly(sidecar, gateway, case, path):
    tag = f"{path} {case.name}".replace(",", "")
    before = gateway.requests
    answer = wire.get(sidecar.proxy, path.encode() + b"/x", b"x-tag: " + tag.encode(), *case.lines, method=case.method, body=case.body)
    if case.outcome == REFUSED or (case.outcome == EITHER and answer.status != 200):
        assert answer.status in case.status, f"{answer}"
        assert gateway.requests == before
        sidecar.assert_no_secret_in(answer.body.decode(), "a refusal")
        return
    assert answer.status == 200, f"{answer}"
    [seen] = gateway.tagged(tag)
    gone = {name.encode() for name in case.gone.split()} if path == "/session" else {name.encode() for name in case.gone.split()} - {b"x-api-key", b"x_api_key"}
    arrived = sent_fields([name + b":" + value for name, value in seen.fields])
    expected = {name: values for name, values in sent_fields(case.lines).items() if name not in gone}
    for name, values in expected.items():
        assert arrived.get(name) == values
    assert set(arrived) <= OURS | set(expected), "nobody sent these"
    assert not (gone - OURS) & set(arrived)
    assert seen.length == len(case.body)
    if path == "/session":
        assert (arrived[b"x-api-key"], arrived[b"x-team"]) == ([API_KEY.encode()], [b"blue"])
        assert arrived[b"x-amz-security-token"] == [SESSION_KEYS.session_token.encode()]
    else:
        assert not {b"x-team", b"x-amz-security-token"} & set(arrived)


def test_the_order_of_equal_names_is_kept_whatever_is_removed_between(sidecar, gateway):
    lines = [b"X-M: 1", b"Connection: x-n", b"X-N: gone", b"X-M: 2", b"TE: trailers", b"X-M: 3", b"Authorization: gone", b"x-m: 4"]
    assert wire.get(sidecar.proxy, b"/session/order", b"x-tag: order", *lines).status == 200
    [seen] = gateway.tagged("order")
    assert seen.values("x-m") == [b"1", b"2", b"3", b"4"]


def test_trailers_stay_here(sidecar, gateway):
    head = wire.head("POST", b"/session/t", sidecar.proxy, b"x-tag: trailers", b"Transfer-Encoding: chunked", b"Trailer: X-T, Authorization")
    answer = wire.ask(sidecar.proxy, head + b"4\r\nbody\r\n0\r\nX-T: 1\r\nAuthorization: Bearer eyJ.client.token\r\n\r\n")
    assert answer.status == 200, f"{answer}"
    [seen] = gateway.tagged("trailers")
    assert (seen.body, seen.values("x-t"), seen.values("trailer")) == (b"body", [], [])


def test_expect_gets_its_interim_answer_before_the_body_is_sent(sidecar):
    head = wire.head("POST", b"/session/e", sidecar.proxy, b"Expect: 100-continue", b"Content-Length: 4")
    with wire.connect(sidecar.proxy) as sock:
        reader = wire.Reader(sock)
        sock.sendall(head)
        assert reader.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"body")
        answer = wire.read_answer(reader)
    assert (answer.status, answer.interim, answer.json()["length"]) == (200, [], 4)


@pytest.mark.parametrize("line", [b"Content-Length: 10485761", b"Content-Length: 4"], ids=["too large", "no route"])
def test_expect_gets_no_interim_answer_for_what_is_refused(sidecar, line):
    path = b"/session/e" if line.endswith(b"1") else b"/nowhere"
    answer = wire.ask(sidecar.proxy, wire.head("POST", path, sidecar.proxy, b"Expect: 100-continue", line))
    assert (answer.status, answer.interim) == (413 if path != b"/nowhere" else 404, [])


@pytest.mark.parametrize(("given", "kept"), [(b"my-id_1.2", True), (b"x" * 128, True), (b"x" * 129, False), (b"a b", False), ("é".encode(), False), (b"", False)])
def test_a_plain_request_id_is_kept_and_any_other_replaced(sidecar, gateway, given, kept):
    tag = f"id-{len(given)}-{given[:3].hex()}-"
    answer = wire.get(sidecar.proxy, b"/session/id", b"x-tag: " + tag.encode(), b"X-Request-Id: " + given)
    [seen] = gateway.tagged(tag)
    [arrived] = seen.values("x-request-id")
    assert (arrived == given) is kept
    assert answer.header("x-request-id") == arrived.decode()


def test_the_table_is_long_enough():
    assert len(CASES) == len({case.name for case in CASES}) >= 40
