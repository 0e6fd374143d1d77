"""HTTP/1.1 as bytes: the reader both sides share, and a client that sends exactly what it is given.

No library client would do: each of them normalises paths, merges headers or refuses what a hostile caller sends.
"""

import json
import re
import socket
from dataclasses import dataclass, field

LONGEST_HEAD = 64 * 1024
PATIENCE = 15.0  # seconds a socket may stay silent before the test fails
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 5.6.2
FIELD_LINE = re.compile(rb"(" + TOKEN + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*")

Field = tuple[bytes, bytes]


class Malformed(Exception):
    """The peer's bytes are not the HTTP/1.1 we insist on."""


class Cut(Exception):
    """The peer closed in the middle of a message."""


class Reader:
    """Takes heads and bodies off a socket, byte for byte."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.held = bytearray()

    def _more(self) -> bool:
        piece = self.sock.recv(256 * 1024)
        self.held += piece
        return bool(piece)

    def until(self, mark: bytes, limit: int = LONGEST_HEAD) -> bytes:
        """Everything up to and with `mark`; empty if the peer closed before the first byte."""
        while (at := self.held.find(mark)) < 0:
            if len(self.held) > limit:
                raise Malformed(f"no {mark!r} in the first {limit} bytes")
            if not self._more():
                if self.held:
                    raise Cut(f"closed after {bytes(self.held[:200])!r}")
                return b""
        taken = bytes(self.held[: at + len(mark)])
        del self.held[: at + len(mark)]
        return taken

    def pieces(self, length: int):
        """Yields exactly `length` bytes as they come, holding none of them."""
        while length:
            if not self.held and not self._more():
                raise Cut(f"closed with {length} bytes of the body to come")
            piece = bytes(self.held[:length])
            del self.held[:length]
            length -= len(piece)
            yield piece

    def chunks(self):
        """Yields a chunked body's data; trailers are refused (the proxy never forwards any)."""
        while True:
            line = self.until(b"\r\n")
            if not re.fullmatch(rb"[0-9a-fA-F]{1,16}\r\n", line):
                raise Cut("closed before a chunk") if not line else Malformed(f"chunk size {line!r}")
            size = int(line, 16)
            if size == 0:
                if (end := self.until(b"\r\n")) != b"\r\n":
                    raise Malformed(f"trailer {end!r}")
                return
            yield from self.pieces(size)
            if (end := b"".join(self.pieces(2))) != b"\r\n":
                raise Malformed(f"chunk ended by {end!r}")

    def rest(self):
        """Yields what comes until the peer closes."""
        while self.held or self._more():
            piece = bytes(self.held)
            self.held.clear()
            yield piece


def split_head(head: bytes) -> tuple[bytes, list[Field]]:
    """First line and field lines, names and values as they stand. No folding, no bare CR or LF, no space before a colon."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields = []
    for line in lines:
        match = FIELD_LINE.fullmatch(line)
        if not match:
            raise Malformed(f"field line {line[:200]!r}")
        fields.append((match[1], match[2]))
    if b"\r" in first or b"\n" in first:
        raise Malformed(f"first line {first[:200]!r}")
    return first, fields


def values(fields: list[Field], name: bytes) -> list[bytes]:
    """All values of one field name, in order."""
    return [value for key, value in fields if key.lower() == name.lower()]


@dataclass(frozen=True)
class Answer:
    """A whole response: what a careful client saw."""

    status: int
    fields: list[Field]
    body: bytes
    interim: list[int] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        found = values(self.fields, name.encode())
        return found[0].decode("latin-1") if found else None

    def json(self):
        return json.loads(self.body)

    def __str__(self):
        return f"{self.status} {self.header('x-countersign-error') or ''} {self.body[:2000]!r}"


def read_answer(reader: Reader, method: str = "GET") -> Answer:
    """The next final response; 1xx are counted and skipped."""
    interim = []
    while True:
        head = reader.until(b"\r\n\r\n")
        if not head:
            raise Cut("closed without an answer")
        first, fields = split_head(head)
        match = re.fullmatch(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?", first)
        if not match:
            raise Malformed(f"status line {first!r}")
        status = int(match[1])
        if status >= 200:
            break
        interim.append(status)
        assert status != 101 and len(interim) <= 4, f"interim answers {interim}"
    lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
    assert len(lengths) + len(codings) <= 1, f"two framings in one answer: {head!r}"
    if method == "HEAD" or status in (204, 304):
        body = b""
    elif codings:
        body = b"".join(reader.chunks())
    elif lengths:
        body = b"".join(reader.pieces(int(lengths[0])))
    else:
        body = b"".join(reader.rest())
    return Answer(status, fields, body, interim)


def connect(address: tuple[str, int]) -> socket.socket:
    sock = socket.create_connection(address, timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def head(method: str, target: bytes, address: tuple[str, int], *lines: bytes) -> bytes:
    """A request head as bytes: the target and the lines go out as they are."""
    host = b"Host: %s:%d" % (address[0].encode(), address[1])
    return b"\r\n".join([method.encode() + b" " + target + b" HTTP/1.1", host, *lines, b"", b""])


def ask(address: tuple[str, int], data: bytes, method: str = "GET") -> Answer:
    """Sends raw bytes on a fresh connection and reads one answer.

    A server may refuse and close while we are still sending: then its answer counts, not our failed write.
    """
    with connect(address) as sock:
        try:
            sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return read_answer(Reader(sock), method)


def get(address: tuple[str, int], target: bytes, *lines: bytes, method: str = "GET", body: bytes = b"") -> Answer:
    """One request, one answer, connection closed after."""
    if body:
        lines += (b"Content-Length: %d" % len(body),)
    return ask(address, head(method, target, address, *lines) + body, method)
