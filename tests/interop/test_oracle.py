"""The oracle, without the proxy: what it accepts was signed right, and each judge alone refuses what was not."""

import contextlib
import dataclasses
import datetime
import hashlib
import socket
import ssl
from collections import Counter

import pytest
import targets
import wire
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from gateway import HOST, REGION, SERVICE, Gateway, HashedSigV4, Keys, Seen, by_awscrt, query_pairs, read_claim, verify

KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session/token+with=signs")
KNOWN = {KEYS.access_key_id: KEYS}


def signed(method="GET", target=b"/prod/a%20b?a=1&b=x%20y", fields=(), body=b"", keys=KEYS, region=REGION, service=SERVICE, **pin) -> Seen:
    """A request as botocore signs it, with its own choice of headers: here the signer, not the judge."""
    path, _, query = target.partition(b"?")
    request = AWSRequest(
        method=method,
        url=f"https://{HOST}{path.decode()}",
        params=[(name.decode(), value.decode()) for name, value in query_pairs(query)],
        headers={"Host": HOST, **{name: value for name, value in fields}},
        data=body,
    )
    signer = HashedSigV4(Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token), service, region)
    request.context["sha256"] = hashlib.sha256(body).hexdigest()
    if date := pin.get("date"):
        request.context["timestamp"] = date
        signer._modify_request_before_signing(request)
        signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        signer._inject_signature_to_request(request, signature)
    else:
        signer.add_auth(request)
    sent = [(name.encode(), value.encode()) for name, value in request.headers.items()]
    return seen(method, target, sent, body)


def seen(method: str, target: bytes, fields, body: bytes) -> Seen:
    return Seen(b"", method, target, list(fields), hashlib.sha256(body).hexdigest(), len(body), body)


def change(request: Seen, name: str, old: str, new: str) -> Seen:
    """The request with one field's value edited after signing."""
    edited = [
        (key, value.replace(old.encode(), new.encode()) if key.lower() == name.encode() else value) for key, value in request.fields
    ]
    assert edited != request.fields
    return dataclasses.replace(request, fields=edited)


@pytest.mark.parametrize("keys", [KEYS, Keys("AKIDPLAIN", "secret-of-plain-keys")], ids=["session", "plain"])
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"method": "POST", "body": b"x" * 1000, "fields": [("Content-Type", "application/json; charset=utf-8")]},
        {"fields": [("X-Amz-Meta-A", "two  spaces"), ("x-amz-target", "a.b"), ("x-amz-empty", "")]},
        {"fields": [("X-Amz-Meta-A", "caf\u00e9\u00a0\u0085x"), ("X-Amz-Meta-B", "a \t b"), ("X-Amz-Meta-C", '" a,  b "')]},
        {"target": b"/prod/%E3%81%82//x/?b=2&a=1&a=0&%E3%81%82=%2B"},
        {"target": b"/prod"},
        {"method": "DELETE", "target": b"/prod/?a"},
        {"method": "PATCH", "body": bytes(range(256))},
    ],
    ids=lambda parts: " ".join(parts) or "get",
)
def test_a_request_signed_by_botocore_is_accepted_by_every_judge(parts, keys):
    verdict = verify(signed(**parts, keys=keys), {keys.access_key_id: keys})
    assert verdict.reasons == []


def spoil(signature: bytes) -> bytes:
    return signature[:-1] + (b"1" if signature.endswith(b"0") else b"0")


def another_second(stamp: bytes) -> bytes:
    return stamp[:-2] + (b"1Z" if stamp.endswith(b"0Z") else b"0Z")


TAMPERED = {
    "path": lambda r: dataclasses.replace(r, target=r.target.replace(b"a%20b", b"a%20c")),
    "path escaped otherwise": lambda r: dataclasses.replace(r, target=r.target.replace(b"a%20b", b"%61%20b")),
    "trailing slash": lambda r: dataclasses.replace(r, target=r.target.replace(b"?", b"/?")),
    "query value": lambda r: dataclasses.replace(r, target=r.target.replace(b"a=1", b"a=2")),
    "query pair added": lambda r: dataclasses.replace(r, target=r.target + b"&c=3"),
    "query pair repeated": lambda r: dataclasses.replace(r, target=r.target + b"&a=1"),
    "query dropped": lambda r: dataclasses.replace(r, target=r.target.partition(b"?")[0]),
    "signed header": lambda r: change(r, "x-amz-meta-a", "one", "two"),
    "host": lambda r: change(r, "host", "abc123", "abc124"),
    "body": lambda r: dataclasses.replace(r, sha256=hashlib.sha256(b"other").hexdigest()),
    "method": lambda r: dataclasses.replace(r, method="PUT"),
    "date": lambda r: dataclasses.replace(r, fields=[(name, another_second(value) if name == b"X-Amz-Date" else value) for name, value in r.fields]),
    "session token": lambda r: change(r, "x-amz-security-token", "session", "another"),
    "signature": lambda r: dataclasses.replace(r, fields=[(name, spoil(value) if name == b"Authorization" else value) for name, value in r.fields]),
}  # fmt: skip


@pytest.mark.parametrize("part", TAMPERED)
def test_a_part_changed_after_signing_is_refused_by_both_recomputations(part):
    request = signed("POST", fields=[("X-Amz-Meta-A", "one")], body=b"body")
    assert verify(request, KNOWN).reasons == []
    verdict = verify(TAMPERED[part](request), KNOWN)
    assert verdict.botocore == "botocore: signature differs"
    assert verdict.awscrt == "awscrt: signature differs"


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "us-east-1"},
        {"service": "s3"},
        {"keys": Keys(KEYS.access_key_id, "another secret", KEYS.session_token)},
        {"keys": Keys("AKIDUNKNOWN", KEYS.secret_access_key, KEYS.session_token)},
    ],
    ids=lambda wrong: "/".join(wrong) + " " + str(next(iter(wrong.values())))[:24],
)
def test_a_signature_for_another_scope_or_secret_is_refused_by_both_recomputations(wrong):
    verdict = verify(signed(**wrong), KNOWN)
    assert verdict.botocore == "botocore: signature differs"
    assert verdict.awscrt == "awscrt: signature differs"


@pytest.mark.parametrize("seconds", [-3600, -301, 301, 3600])
def test_a_date_outside_the_window_is_refused_though_its_signature_is_right(seconds):
    now = datetime.datetime.now(datetime.UTC)
    request = signed(date=(now + datetime.timedelta(seconds=seconds)).strftime("%Y%m%dT%H%M%SZ"))
    verdict = verify(request, KNOWN, now)
    assert (verdict.form, verdict.botocore, verdict.awscrt) == (["x-amz-date is more than 5 minutes off"], None, None)


def with_field(name: bytes, value: bytes):
    return lambda r: dataclasses.replace(r, fields=[*r.fields, (name, value)])


FORMS = {
    "two Authorizations": (with_field(b"Authorization", b"Bearer x"), "2 Authorization fields"),
    "no Authorization": (lambda r: dataclasses.replace(r, fields=[f for f in r.fields if f[0] != b"Authorization"]), "0 Authorization fields"),
    "an unsigned x-amz header": (with_field(b"X-Amz-Late", b"1"), "x-amz-late is not signed"),
    "a second Host": (with_field(b"host", HOST.encode()), "not exactly one Host"),
    "a second date": (with_field(b"x-amz-date", b"20250101T000000Z"), "x-amz-date is [b"),
    "a leftover te": (with_field(b"TE", b"trailers"), "hop-by-hop field TE"),
    "a leftover connection": (with_field(b"connection", b"keep-alive"), "hop-by-hop field connection"),
    "two framings": (lambda r: with_field(b"transfer-encoding", b"chunked")(with_field(b"content-length", b"0")(r)), "more than one framing field"),
    "two lengths": (lambda r: with_field(b"content-length", b"0")(with_field(b"content-length", b"0")(r)), "more than one framing field"),
    "a chunked body": (with_field(b"transfer-encoding", b"chunked"), "a signed body is sent with its length, not chunked"),
    "a wrong body hash": (with_field(b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"), "x-amz-content-sha256 is not the hash of the body"),
    "a raw plus": (lambda r: signed(target=b"/prod/a?b=c+d"), "query on the wire is not in canonical encoding"),
    "lower-case hex in the query": (lambda r: signed(target=b"/prod/a?b=%2b"), "query on the wire is not in canonical encoding"),
    "an empty pair": (lambda r: signed(target=b"/prod/a?b=1&&c=2"), "query on the wire is not in canonical encoding"),
    "raw UTF-8 in the path": (lambda r: dataclasses.replace(r, target="/prod/é".encode()), "path has raw non-ASCII"),
    "a signed user-agent": (lambda r: change(r, "authorization", "x-amz-date", "user-agent;x-amz-date"), "user-agent must not be signed"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FORMS)
def test_a_request_of_the_wrong_form_is_refused_with_its_reason(fault):
    edit, reason = FORMS[fault]
    assert any(found.startswith(reason) for found in verify(edit(signed()), KNOWN).form)


def test_both_judges_agree_on_every_target_of_the_table_as_it_will_go_out():
    """What the proxy must send for each row is something both signers sign alike: else the table asks the impossible."""
    differing, judged = [], 0
    for row in [*targets.TARGETS, *targets.generated(7, 400)]:
        if row.rule in (targets.OK, targets.SLASH):
            for sent in targets.on_the_wire(row.raw, b"/prod", signed=True):
                judged += 1
                if reasons := verify(signed(target=sent), KNOWN).reasons:
                    differing.append((row.raw[:100], sent[:100], reasons))
    assert differing == []
    assert judged > 200


def test_the_rewritten_query_means_what_was_sent():
    for row in [*targets.TARGETS, *targets.generated(7, 400)]:
        if row.rule == targets.OK:
            sent, *_ = targets.on_the_wire(row.raw, b"/prod", signed=True)
            assert targets.pairs(sent.partition(b"?")[2]) == targets.pairs(row.raw.partition(b"?")[2])


def test_the_table_of_targets_agrees_with_the_rules():
    assert [(row.raw, row.rule, targets.judge(row.raw)) for row in targets.TARGETS if row.rule != targets.judge(row.raw)] == []
    assert len({row.raw for row in targets.TARGETS}) == len(targets.TARGETS) >= 140


def test_the_generated_targets_reach_every_outcome():
    reached = Counter(row.rule for row in targets.generated(7, 400))
    assert {targets.OK, targets.DOTS, targets.SLASH, targets.ESCAPE, targets.NOTUTF8, targets.PRESIGNED, targets.RAW} <= set(reached)
    assert reached[targets.OK] > 100


def test_awscrt_signs_a_raw_plus_as_a_plus():
    """The quirk (docs/aws.md A2) for which countersign never sends one: AWS reads a space."""
    plus, escaped = signed(target=b"/prod/a?b=c%2Bd"), b"/prod/a?b=c+d"
    claim = read_claim(plus)
    assert by_awscrt(dataclasses.replace(plus, target=escaped), claim, KEYS) == claim.signature


# The gateway itself: bytes in, bytes judged.


@contextlib.contextmanager
def running_gateway():
    gateway = Gateway()
    gateway.keys = KNOWN
    try:
        yield gateway
        assert gateway.failures == []
    finally:
        gateway.close()


def talk(gateway: Gateway, *messages: bytes) -> list[wire.Answer]:
    """Sends messages over one TLS connection, verified as the proxy will verify it."""
    context = ssl.create_default_context()
    gateway.ca.configure_trust(context)
    with context.wrap_socket(wire.connect(("127.0.0.1", gateway.port)), server_hostname=HOST) as sock:
        reader = wire.Reader(sock)
        answers = []
        for message in messages:
            sock.sendall(message)
            answers.append(wire.read_answer(reader, message.split(b" ")[0].decode()))
        return answers


def as_bytes(request: Seen, *extra: bytes) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.target)]
    lines += [name + b": " + value for name, value in request.fields]
    return b"\r\n".join([*lines, *extra, b"", b""]) + request.body


def test_the_gateway_answers_what_it_saw_on_one_connection():
    body = b"q" * 70_000
    posted = signed("POST", b"/prod/x%2Fy?a", body=body)
    with running_gateway() as gateway:
        first, second, third = talk(
            gateway,
            as_bytes(signed(), b"x-odd: \xff  caf\xc3\xa9"),
            as_bytes(posted, b"content-length: 70000"),
            as_bytes(signed("HEAD")),
        )
        assert (first.status, second.status, third.status) == (200, 200, 200)
        assert ["x-odd", "\xff  caf\xc3\xa9"] in first.json()["headers"]
        assert (second.json()["length"], second.json()["sha256"]) == (70_000, hashlib.sha256(body).hexdigest())
        assert third.body == b""
        assert gateway.seen[1].target == b"/prod/x%2Fy?a"
        assert gateway.seen[1].head.startswith(b"POST /prod/x%2Fy?a HTTP/1.1\r\n")
        assert gateway.seen[1].body == body[:65536]


def test_the_gateway_refuses_a_tampered_body_and_says_why():
    with running_gateway() as gateway:
        [answer] = talk(gateway, as_bytes(dataclasses.replace(signed("POST", body=b"good"), body=b"evil"), b"content-length: 4"))
        assert answer.status == 403
        assert answer.json()["complaints"] == ["botocore: signature differs", "awscrt: signature differs"]


def test_the_gateway_reads_odd_chunks_and_streams_them_into_the_hash():
    body = bytes(range(256)) * 3
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:1], body[1:3], body[3:])) + b"0\r\n\r\n"
    with running_gateway() as gateway:
        [answer] = talk(gateway, b"POST /open/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)
        assert (answer.status, answer.json()["sha256"]) == (200, hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize(
    "message",
    [
        b"GET /open/x HTTP/1.1\nHost: h\n\r\n\r\n",
        b"GET /open/ x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /open/x HTTP/1.0\r\nHost: h\r\n\r\n",
        b"GET /open/x HTTP/1.1\r\nHost: h\r\nfolded: a\r\n b\r\n\r\n",
        b"GET /open/x HTTP/1.1\r\nHost : h\r\n\r\n",
        b"GET /open/x HTTP/1.1\r\nHost: h\r\na: b\rc\r\n\r\n",
        b"GET /open/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"GET /open/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /open/x HTTP/1.1\r\nHost: h\r\nContent-Length: 01\r\n\r\nx",
        b"GET /open/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n",
    ],
)  # fmt: skip
def test_bytes_that_are_not_strict_http_are_a_failure_of_the_run(message):
    gateway = Gateway()
    try:
        with pytest.raises((wire.Cut, OSError)):
            talk(gateway, message)
        assert len(gateway.failures) == 1
    finally:
        gateway.close()


def test_a_bearer_stage_wants_exactly_one_token_of_ours():
    with running_gateway() as gateway:
        gateway.tokens.add("good")
        sends = [b"Authorization: Bearer good", b"Authorization: Bearer bad", b"Authorization: good", b"x: y", b"Authorization: Bearer good\r\nAuthorization: Bearer good"]
        answers = talk(gateway, *[b"GET /bearer/x HTTP/1.1\r\nHost: h\r\n" + line + b"\r\n\r\n" for line in sends])
        assert [answer.status for answer in answers] == [200, 403, 403, 403, 403]


def test_the_gateway_survives_a_client_that_goes_away():
    with running_gateway() as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
            sock.sendall(b"not tls")
        [answer] = talk(gateway, as_bytes(signed()))
        assert answer.status == 200
