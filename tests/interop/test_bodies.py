"""Request bodies: every byte arrives, signed and with one framing field of ours; what is too large is refused early."""

import hashlib
import itertools
import select
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import wire
from conftest import configuration, content, route

LIMIT = 10 * 1024 * 1024  # upstream.max_body's default: API Gateway's own
SIZES = [0, 1, 1024, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 1024 * 1024, LIMIT]
METHODS = ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS"]
WHOLE = content(LIMIT + 1)


@pytest.fixture(scope="module")
def sidecar(gateway, start, token_endpoint):
    return start(
        configuration(
            route(gateway, "/signed", "/prod", "session"),
            route(gateway, "/bearer", "/bearer", "bearer"),
            route(gateway, "/open", "/open", "none"),
            token_url=token_endpoint.url,
        )
    )


def with_length(sidecar, method: str, path: bytes, body: bytes) -> bytes:
    return wire.head(method, path, sidecar.proxy, b"Content-Type: application/octet-stream", b"Content-Length: %d" % len(body)) + body


def chunked(body: bytes, sizes) -> bytes:
    """The body in chunks of these sizes, over and over."""
    parts, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(body):
            break
        piece = body[at : at + size]
        parts.append(b"%x\r\n%s\r\n" % (len(piece), piece))
        at += size
    return b"".join(parts) + b"0\r\n\r\n"


def in_chunks(sidecar, method: str, path: bytes, body: bytes, sizes) -> bytes:
    return wire.head(method, path, sidecar.proxy, b"Transfer-Encoding: chunked") + chunked(body, sizes)


def assert_arrived(answer: wire.Answer, body: bytes, *, signed: bool = True):
    """The gateway verified the signature over the real body; here only that it is the body that was sent."""
    assert answer.status == 200, f"{answer}"
    seen = answer.json()
    assert (seen["length"], seen["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    framing = [(name.lower(), value) for name, value in seen["headers"] if name.lower() in ("content-length", "transfer-encoding")]
    allowed = [[("content-length", str(len(body)))]]
    if not signed:
        allowed.append([("transfer-encoding", "chunked")])
    if not body and seen["method"] not in ("POST", "PUT", "PATCH"):
        allowed.append([])  # RFC 9110 8.6: for these three a length of 0 says something
    assert framing in allowed


def assert_too_large(sidecar, answer: wire.Answer):
    assert (answer.status, answer.header("x-countersign-error")) == (413, "body-too-large"), f"{answer}"
    sidecar.assert_no_secret_in(answer.body.decode(), "a refusal")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_a_body_with_a_length_arrives_whole_and_signed(sidecar, method, size):
    body = WHOLE[:size]
    assert_arrived(wire.ask(sidecar.proxy, with_length(sidecar, method, b"/signed/up", body)), body)


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("size", SIZES)
def test_a_chunked_body_arrives_whole_and_signed_with_a_length(sidecar, method, size):
    body = WHOLE[:size]
    assert_arrived(wire.ask(sidecar.proxy, in_chunks(sidecar, method, b"/signed/up", body, [100_003])), body)


@pytest.mark.parametrize("sizes", [[1], [1, 2, 3], [1, 65_536], [65_535, 65_537], [7, 1, 4096, 1]], ids=str)
@pytest.mark.parametrize("path", [b"/signed/up", b"/bearer/up"], ids=bytes.decode)
def test_odd_chunk_sizes_make_no_difference(sidecar, sizes, path):
    body = WHOLE[: 30_000 if sizes[0] == 1 and len(sizes) == 1 else 300_000]
    answer = wire.ask(sidecar.proxy, in_chunks(sidecar, "POST", path, body, sizes))
    assert_arrived(answer, body, signed=path.startswith(b"/signed"))


@pytest.mark.parametrize("size", [1, 1024, 65_537])
@pytest.mark.parametrize("path", [b"/signed/up", b"/bearer/up", b"/open/up"], ids=bytes.decode)
def test_a_head_request_keeps_its_body_and_gets_none(sidecar, gateway, path, size):
    tag = f"head-{path.decode()}-{size}"
    body = WHOLE[:size]
    lines = (b"x-tag: " + tag.encode(), b"Content-Length: %d" % size)
    answer = wire.ask(sidecar.proxy, wire.head("HEAD", path, sidecar.proxy, *lines) + body, "HEAD")
    [seen] = gateway.tagged(tag)
    assert (answer.status, answer.body) == (200, b"")
    assert (seen.method, seen.length, seen.sha256) == ("HEAD", size, hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", [b"/signed/none", b"/bearer/none", b"/open/none"], ids=bytes.decode)
def test_no_body_is_invented(sidecar, gateway, method, path):
    tag = f"none-{method}-{path.decode()}"
    answer = wire.get(sidecar.proxy, path, b"x-tag: " + tag.encode(), method=method)
    [seen] = gateway.tagged(tag)
    assert (answer.status, seen.length, seen.values("transfer-encoding")) == (200, 0, [])
    assert seen.values("content-length") in ([], [b"0"])


@pytest.mark.parametrize("length", [LIMIT + 1, 2 * LIMIT, 10**12])
def test_a_length_above_the_limit_is_refused_before_a_byte_of_it_is_sent(sidecar, gateway, length):
    before = gateway.requests
    head = wire.head("POST", b"/signed/up", sidecar.proxy, b"Content-Length: %d" % length)
    answer = wire.ask(sidecar.proxy, head)  # the client waits with its body, and expects nothing of the kind
    assert_too_large(sidecar, answer)
    assert gateway.requests == before


def test_a_chunked_body_above_the_limit_is_refused_before_its_end(sidecar, gateway):
    before = gateway.requests
    endless = in_chunks(sidecar, "POST", b"/signed/up", WHOLE, [1024 * 1024]).removesuffix(b"0\r\n\r\n")
    with wire.connect(sidecar.proxy) as sock:
        rest = memoryview(endless)
        while rest:
            readable, writable, _ = select.select([sock], [sock], [], wire.PATIENCE)
            assert readable or writable, "neither taken nor refused"
            if readable:
                break
            rest = rest[sock.send(rest[: 64 * 1024]) :]
        assert_too_large(sidecar, wire.read_answer(wire.Reader(sock)))
    assert gateway.requests == before


@pytest.mark.parametrize("path", [b"/bearer/up", b"/open/up"], ids=bytes.decode)
@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
def test_a_body_that_no_signature_covers_has_no_limit_here(sidecar, path, size):
    body = WHOLE[:size]
    assert_arrived(wire.ask(sidecar.proxy, with_length(sidecar, "POST", path, body)), body, signed=False)
    assert_arrived(wire.ask(sidecar.proxy, in_chunks(sidecar, "POST", path, body, [70_001])), body, signed=False)


def test_a_body_cut_short_reaches_no_one_as_a_whole(sidecar, gateway):
    tag = "cut-short"
    head = wire.head("POST", b"/signed/up", sidecar.proxy, b"x-tag: " + tag.encode(), b"Content-Length: 100000")
    with wire.connect(sidecar.proxy) as sock:
        sock.sendall(head + WHOLE[:99_999])
    # a later request is answered: what was cut had its time, and nothing of it had been sent before its end
    assert wire.get(sidecar.proxy, b"/signed/after").status == 200
    assert gateway.tagged(tag) == []


def test_bodies_on_one_kept_connection_do_not_run_into_each_other(sidecar):
    with wire.connect(sidecar.proxy) as sock:
        reader = wire.Reader(sock)
        for size, path in itertools.product([0, 1, 65_537, 3], [b"/signed/up", b"/bearer/up"]):
            body = WHOLE[:size]
            for request in (with_length(sidecar, "POST", path, body), in_chunks(sidecar, "PUT", path, body, [1000, 1])):
                sock.sendall(request)
                assert_arrived(wire.read_answer(reader), body, signed=path.startswith(b"/signed"))


def test_thirty_two_uploads_held_at_once_all_verify(sidecar):
    """Together 64 MiB, which is just the default buffer_budget: none may be refused, none may lose a byte."""
    count, size = 32, 2 * 1024 * 1024
    all_but_the_last_byte_sent = threading.Barrier(count)

    def upload(number: int) -> None:
        body = WHOLE[number : number + size]
        data = with_length(sidecar, "POST", b"/signed/up/%d" % number, body)
        with wire.connect(sidecar.proxy) as sock:
            sock.sendall(data[:-1])
            all_but_the_last_byte_sent.wait(wire.PATIENCE)
            sock.sendall(data[-1:])
            assert_arrived(wire.read_answer(wire.Reader(sock)), body)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(upload, number) for number in range(count)]:
            done.result()
