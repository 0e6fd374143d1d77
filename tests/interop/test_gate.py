"""Raw streams through the running proxy: what h11 does not see as a request, no upstream may see as one.

h11 is a strict parser of other people. A stream with something wrong in it goes to both; every request that arrives whole
behind the proxy must be one that h11 read in the same stream, in the same order, with the same body.
"""

import os
import random
import re
import socket
import threading
import time
from dataclasses import dataclass

import h11
import pytest
import wire

STREAMS = int(os.environ.get("COUNTERSIGN_STREAMS", "20000"))  # 1,000,000 take about an hour; by hand
SEED = int(os.environ.get("COUNTERSIGN_SEED", "1"))
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True)
class Seen:
    """A request that somebody took for one."""

    method: bytes
    target: bytes
    body: bytes


class Upstream:
    """An API of bytes: reads one request after the other as strictly as `wire` does, and answers 200."""

    def __init__(self):
        self.seen: list[Seen] = []
        self.malformed: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = wire.Reader(connection)
        with connection:
            try:
                while head := reader.until(b"\r\n\r\n"):
                    first, fields = wire.split_head(head)
                    method, target, _ = first.split(b" ")
                    lengths, codings = wire.values(fields, b"content-length"), wire.values(fields, b"transfer-encoding")
                    if len(lengths) + len(codings) > 1 or len(wire.values(fields, b"host")) != 1:
                        raise wire.Malformed(f"{head!r}")
                    body = b"".join(reader.chunks() if codings else reader.pieces(int(lengths[0]) if lengths else 0))
                    # Before the answer: whoever has the answer finds the request here.
                    self.seen.append(Seen(method, target, body))
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            except wire.Malformed as error:
                self.malformed.append(str(error))
            except (wire.Cut, OSError):
                pass  # an upload that broke off is no request

    def take(self) -> list[Seen]:
        seen, self.seen = self.seen, []
        return seen

    def close(self):
        self._socket.close()


@pytest.fixture(scope="module")
def upstream():
    server = Upstream()
    yield server
    server.close()
    assert server.malformed == []


@pytest.fixture(scope="module")
def sidecar(start, upstream):
    return start(
        '[proxy]\nlisten = ["127.0.0.1:0"]\n[admin]\nlisten = "127.0.0.1:0"\n[log]\nformat = "json"\naccess = false\n'
        f'[[route]]\nauth = "none"\nupstream = "http://127.0.0.1:{upstream.port}"\n'
    )


def origin_form(target: bytes) -> bytes:
    if absolute := re.fullmatch(rb"http://[^/?]*(.*)", target, re.IGNORECASE):
        return absolute[1] if absolute[1].startswith(b"/") else b"/" + absolute[1]
    return target


def reference(stream: bytes) -> list[Seen]:
    """The whole requests that h11 finds in a stream, up to the first that ends the connection or breaks a rule."""
    seen = []
    while stream:
        # The one thing that the proxy forgives and h11 does not (RFC 9112 2.2).
        stream = stream.removeprefix(b"\r\n")
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
        connection.receive_data(stream)
        connection.receive_data(b"")
        head, body = None, []
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body.append(bytes(event.data))
                else:
                    return seen
        except h11.RemoteProtocolError as error:
            # In trailers, framing fields frame nothing; the proxy drops them with the others.
            if head is None or "Content-Length" not in str(error) and "Transfer-Encoding" not in str(error):
                return seen
        rest = connection.trailing_data[0]
        seen.append(Seen(head.method, origin_form(head.target), b"".join(body)))
        tokens = b",".join(value for name, value in head.headers if name == b"connection").lower().split(b",")
        # h11 never keeps an HTTP/1.0 connection; RFC 9112 9.3 does, if asked to.
        keeps = head.http_version == b"1.1" or b"keep-alive" in [token.strip() for token in tokens]
        if head.method == b"CONNECT" or not keeps or b"close" in [token.strip() for token in tokens]:
            return seen
        stream = rest
    return seen


class Client:
    """One connection a stream; every one comes from another loopback address, so that none runs out of ports."""

    def __init__(self, address: tuple[str, int]):
        self.address = address
        self.number = 0

    def send(self, stream: bytes, *, pieces=()) -> bytes:
        """Sends it, says that it is all, and returns all that came back before the proxy closed."""
        self.number += 1
        source = (f"127.0.0.{2 + self.number % 250}", 0)
        answers = []
        with socket.create_connection(self.address, timeout=wire.PATIENCE, source_address=source) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for piece in pieces or (stream,):
                    sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
                while piece := sock.recv(65536):
                    answers.append(piece)
            except (BrokenPipeError, ConnectionResetError):
                pass
            except TimeoutError:
                pytest.fail(f"it hangs: {stream!r}")
        return b"".join(answers)


@pytest.fixture(autouse=True)
def nothing_seen(upstream):
    """What an earlier test that failed has left behind is not this one's."""
    upstream.take()


@pytest.fixture(scope="module")
def client(sidecar):
    return Client(sidecar.proxy)


def served(answers: bytes) -> int:
    """How many good answers there are."""
    return len(re.findall(rb"HTTP/1\.[01] 20", answers))


def assert_nothing_smuggled(stream: bytes, seen: list[Seen]):
    """What arrived is what h11 read, less what was refused."""
    read = iter(reference(stream))
    for request in seen:
        assert request in read, f"{request} is not what h11 reads in {stream!r}"


def head(*lines: bytes, first: bytes = b"POST / HTTP/1.1") -> bytes:
    return b"\r\n".join([first, b"Host: localhost", *lines, b"", b""])


def get(target: bytes, method: bytes = b"GET") -> bytes:
    return head(first=method + b" " + target + b" HTTP/1.1")


NAMES = [b"Content-Length", b"Transfer-Encoding", b"Host", b"Authorization"]
TRICKS = [
    b"%s : 3",
    b"%s\t: 3",
    b"%s\xa0: 3",
    b"%s\x85: 3",
    b"%s\xc2\xad: 3",
    b" %s: 3",
    b"X: y\r\n %s: 3",
    b"%s:\r\n 3",
    b"X: y\r%s: 3",
    b"X: y\n%s: 3",
    b"%s\0: 3",
    b"\\%s: 3",
    b"%s\\: 3",
    b"\xff%s: 3",
    b"%s",
]
CHUNKS = [
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b" 3\r\nabc\r\n0\r\n\r\n",
    b"\r\nabc\r\n0\r\n\r\n",
    b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    b"3\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\r\nabc\r\r\n0\r\n\r\n",
    b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    b"3;" + 20 * 1024 * b"x" + b"\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX: y\r\n fold\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX : y\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\n",
    b"3\r\nabc\r\n" + SMUGGLED,
    b"3\r\nabc\r\n0\r\n" + SMUGGLED,
    b"3\r\nabc\r\n0\r\n\r",
    b"3\r\nabc",
    b"-0\r\n\r\n",
    b"0;\0\r\n\r\n",
    b"g\r\n\r\n",
]
LENGTHS = [b"3, 3", b"+3", b"-1", b"0x3", b"", b"3 3", b"1e1", b"3;a", b"18446744073709551615", b"18446744073709551616", b"3\r\nContent-Length: 3", b"3\r\nContent-Length: 4"]
CODINGS = [b"xchunked", b"chunked;q=1", b"identity", b"identity\r\nContent-Length: 3", b"\x0bchunked", b"chunked, chunked", b"gzip, chunked", b"chunked\r\nTransfer-Encoding: chunked", b"x\r\nTransfer-Encoding: chunked", b"chunked\r\nContent-Length: 3", b""]
LINES = [
    b"GET / HTTP/1.1\nHost: localhost\n\n",
    b"GET / HTTP/1.1\r\nHost: localhost\n\r\n",
    b"GET / HTTP/1.1\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\r\n\r\n",
    5 * b"\r\n" + get(b"/"),
    b"GET / HTTP/1.1\r\n: x\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nx\0y: z\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nx: \x7f\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: evil\r\nHost: localhost\r\n\r\n",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1x\r\nHost: localhost\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b" GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
]
TARGETS = [b"*", b"a/b", b"localhost:443", b"https://localhost/", b"http://a@localhost/", b"/a#b", b"/a\\b", b"/\xc3\xa9", b"/a/../b", b"//evil.test", b"/%00", b"/a?b=\xff", b"http://"]

REFUSED = [
    *(head(b"Content-Length: " + value) + b"abc" + SMUGGLED for value in LENGTHS),
    *(head(b"Transfer-Encoding: " + value) + b"3\r\nabc\r\n0\r\n\r\n" + SMUGGLED for value in CODINGS),
    *(head(b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + SMUGGLED for _ in "x"),
    *(head(trick % name) + SMUGGLED for trick in TRICKS for name in NAMES),
    *(head(b"Transfer-Encoding: chunked") + chunks for chunks in CHUNKS),
    *LINES,
    *(get(target) + SMUGGLED.replace(b"/smuggled", b"/\x01smuggled") for target in TARGETS),
    *(get(target, b"CONNECT") + SMUGGLED for target in (b"localhost:443", b"/x", b":0", b"evil.test:443")),
    get(b"/", b"TRACE"),
    get(b"/", b"get"),
    get(b"/" + 9 * 1024 * b"a"),
    get(b"/" + 66 * 1024 * b"a"),
    head(b"X: " + 33 * 1024 * b"y"),
    head(b"X: " + 450_000 * b"y"),
    head(*(101 * [b"X: y"])),
    head(b"Expect: foo", b"Content-Length: 3") + b"abc",
]
TAKEN = [
    (get(b"/a?b=c") + get(b"/d"), 2),
    (b"GET /old HTTP/1.0\r\n\r\n", 1),
    (b"GET /old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + get(b"/new"), 2),
    (b"\r\n" + get(b"/"), 1),
    (head(b"Content-Length: 3") + b"abc\r\n" + get(b"/next"), 2),
    (head(b"Content-Length: 003") + b"abc", 1),
    (head(b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED, 1),
    (head(b"Transfer-Encoding: CHUNKED") + b"3\r\nabc\r\n00\r\nX: y\r\n\r\n" + get(b"/next"), 2),
    (head(b"Transfer-Encoding: chunked") + b'3;a="b"\r\nabc\r\n0\r\n\r\n', 1),
    (head(b"Transfer_Encoding: chunked", b"Content_Length: 9") + get(b"/next"), 2),
    (head(b"X: a\xe9\tb", b"X-Empty:", *(50 * [b"X-Many: 1"])), 1),
    (get(b"http://localhost/abs?x"), 1),
    (head(b"Connection: upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AA", first=b"GET / HTTP/1.1") + get(b"/next"), 2),
    (get(b"/", b"DELETE").replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nbody"), 1),
    (head(b"Connection: close") + SMUGGLED, 1),
    (get(b"*", b"OPTIONS"), 0),
]


def assert_clean(client: Client, upstream: Upstream):
    """Whatever came before, the next client is served."""
    answer = client.send(get(b"/clean"))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert upstream.take() == [Seen(b"GET", b"/clean", b"")]


def test_the_corpus_is_large_enough():
    assert len(set(REFUSED)) + len(TAKEN) >= 90


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_a_refused_stream_reaches_nobody(client, upstream, number):
    stream = REFUSED[number]
    begun = time.monotonic()
    answer = client.send(stream)
    assert time.monotonic() - begun < 2, "a refusal needs no waiting"
    assert answer == b"" or re.match(rb"HTTP/1\.1 [45]\d\d ", answer), answer
    assert answer.count(b"HTTP/1.1 ") <= 2, answer
    assert [request for request in upstream.take() if request.target == b"/smuggled" or request.method == b"POST"] == []
    assert_clean(client, upstream)


@pytest.mark.parametrize("number", range(len(TAKEN)))
def test_an_odd_but_plain_stream_is_served(client, upstream, number):
    stream, requests = TAKEN[number]
    assert served(client.send(stream)) == max(requests, 1)
    seen = upstream.take()
    assert len(seen) == requests
    assert_nothing_smuggled(stream, seen)
    assert_clean(client, upstream)


@pytest.mark.parametrize("number", range(len(TAKEN)))
def test_it_makes_no_difference_how_a_stream_is_cut(client, upstream, number):
    stream, requests = TAKEN[number]
    assert served(client.send(stream)) == max(requests, 1)
    seen = upstream.take()
    for size in (1, 7, 50):
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert served(client.send(stream, pieces=pieces)) == max(requests, 1)
        assert upstream.take() == seen


SPLICES = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b"\x0b", b"\x7f", b"\x85", b"\xa0", b"\xff", b"0", b"1", b",", b";", b"_", b"#", b"\\", b"%"),
    *(b"Content-Length: %s\r\n" % value for value in (b"0", b"3", b"5", b"+5", b"5, 5", b"0x5", b"05")),
    *(b"Transfer-Encoding: %s\r\n" % value for value in (b"chunked", b"CHUNKED", b"identity", b"chunked, identity", b"\x0bchunked", b'"chunked"')),
    *(b"Content-Length : 5\r\n", b"Transfer-Encoding : chunked\r\n", b"Transfer_Encoding: chunked\r\n", b"Transfer-Encoding:\r\n chunked\r\n", b" Transfer-Encoding: chunked\r\n"),
    *(b"Host: evil.test\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Connection: content-length\r\n", b"Upgrade: h2c\r\n"),
    *(b"0\r\n\r\n", b"0\r\n", b"3\r\nabc\r\n", b"3;x\r\nabc\r\n", b"ffffffffffffffff\r\n", b"X: y\r\n"),
    *(SMUGGLED, b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.0", b"HTTP/1.1"),
]


def mutated(chance: random.Random) -> bytes:
    """One to three plain requests, and up to four things done to their bytes."""
    stream = bytearray(b"".join(chance.choice(TAKEN)[0] for _ in range(chance.randint(1, 3))))
    for _ in range(chance.randint(0, 4)):
        at = chance.randrange(len(stream) or 1)
        match chance.randrange(6):
            case 0 if stream:
                stream[at] = chance.randrange(256)
            case 1:
                del stream[at : at + chance.randint(1, 4)]
            case 2:
                stream[at:at] = stream[at : at + chance.randint(1, 40)]
            case 3 if stream:
                stream[at] ^= 0x20
            case 4:
                stream[at:at] = chance.choice(SPLICES)
            case _:
                # At the begin of a line, where it means most.
                lines = [found.end() for found in re.finditer(rb"\r\n", stream)] or [0]
                at = chance.choice(lines)
                stream[at:at] = chance.choice(SPLICES)
    return bytes(stream)


@pytest.mark.timeout(60 + STREAMS // 100)
def test_no_mutated_stream_smuggles_a_request(sidecar, client, upstream):
    chance = random.Random(SEED)
    arrived = 0
    for number in range(STREAMS):
        stream = mutated(chance)
        answers = client.send(stream)
        seen = upstream.take()
        assert_nothing_smuggled(stream, seen)
        # `OPTIONS *` is answered without an upstream.
        assert served(answers) >= len(seen), f"an answer is missing to {stream!r}"
        arrived += len(seen)
        if number % 1000 == 999:
            assert sidecar.process.poll() is None, "it crashed"
            assert_clean(client, upstream)
    assert arrived > STREAMS / 4, f"only {arrived} requests were let through: the mutations are too coarse to prove anything"
    assert_clean(client, upstream)


def test_pipelined_requests_that_nobody_reads_the_answers_of_take_no_memory(sidecar, client, upstream):
    assert_clean(client, upstream)
    before = sidecar.resident()
    with wire.connect(sidecar.proxy) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(0.5)
        try:
            sock.sendall(10_000 * get(b"*", b"OPTIONS"))
        except TimeoutError:
            pass  # the proxy does not read what it cannot answer
        grown = sidecar.resident() - before
    assert grown <= 2 * 1024 * 1024, f"{grown} bytes more"
    assert_clean(client, upstream)


def test_chunk_dust_costs_little(sidecar, client, upstream):
    chunks = 200_000
    stream = head(b"Transfer-Encoding: chunked") + chunks * b"1\r\nx\r\n" + b"0\r\n\r\n"
    before = cpu_seconds(sidecar.process.pid)
    assert client.send(stream).startswith(b"HTTP/1.1 200 ")
    spent = cpu_seconds(sidecar.process.pid) - before
    assert [len(request.body) for request in upstream.take()] == [chunks]
    assert spent < 2 * len(stream) / 1e6, f"{spent} s for {len(stream)} bytes"


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
