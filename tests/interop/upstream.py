"""An API on plain HTTP that keeps every byte it gets and answers what it is told, byte for byte."""

import contextlib
import re
import socket
import threading
from dataclasses import dataclass

import wire
from wire import Field, values


@dataclass(frozen=True)
class Arrived:
    """One request, as its bytes came."""

    head: bytes
    method: str
    target: bytes
    fields: list[Field]
    body: bytes
    trailers: list[Field]

    def values(self, name: str) -> list[bytes]:
        return values(self.fields, name.encode())

    @property
    def framing(self) -> str:
        """How the body was delimited."""
        return "chunked" if self.values("transfer-encoding") else "length" if self.values("content-length") else "none"


class Upstream:
    """Counts connections and bytes from the first one on, so that "nothing arrived" means nothing.

    `reply(arrived)` gives the bytes of the answer, and None to close instead; after an answer without a length the
    connection is closed.
    """

    def __init__(self, reply, address: str = "127.0.0.1"):
        self.reply = reply
        self.connections = 0
        self.bytes = 0
        self.arrived: list[Arrived] = []
        self.failures: list[str] = []
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family, backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def wait_for(self, predicate) -> bool:
        """Whether `predicate(arrived)` came true in time."""
        with self._changed:
            return self._changed.wait_for(lambda: predicate(self.arrived), wire.PATIENCE)

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self.connections += 1
                self._open.add(sock)
            threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _converse(self, sock: socket.socket):
        sock.settimeout(wire.PATIENCE * 2)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = CountingReader(sock, self)
        try:
            while self._serve(sock, reader):
                pass
        except (wire.Cut, OSError):
            pass  # the peer dropped the connection; the test sees what came of it
        except Exception as error:
            self.failures.append(f"{error!r}")
        finally:
            with self._changed:
                self._open.discard(sock)
            sock.close()

    def _serve(self, sock, reader) -> bool:
        head = reader.until(b"\r\n\r\n")
        if not head:
            return False
        first, fields = wire.split_head(head)
        method, target, version = first.split(b" ")
        lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
        trailers: list[Field] = []
        if codings:
            body = b"".join(chunks(reader, trailers))
        else:
            body = b"".join(reader.pieces(int(lengths[0]) if lengths else 0))
        arrived = Arrived(head, method.decode(), target, fields, body, trailers)
        with self._changed:
            self.arrived.append(arrived)
            self._changed.notify_all()
        answer = self.reply(arrived)
        if answer is None:
            return False
        sock.sendall(answer)
        closes = b"close" in [value.lower() for value in values(fields, b"connection")] or version == b"HTTP/1.0"
        return not closes and is_delimited(answer, arrived.method)


class CountingReader(wire.Reader):
    def __init__(self, sock: socket.socket, upstream: Upstream):
        super().__init__(sock)
        self.upstream = upstream

    def _more(self) -> bool:
        before = len(self.held)
        more = super()._more()
        self.upstream.bytes += len(self.held) - before
        return more


def chunks(reader: wire.Reader, trailers: list[Field]):
    """Yields a chunked body's data, extensions dropped; the fields after it go to `trailers`."""
    while True:
        line = reader.until(b"\r\n")
        match = re.fullmatch(rb"([0-9a-fA-F]{1,16})(?:;.*)?\r\n", line)
        if not match:
            raise wire.Malformed(f"chunk size {line!r}")
        if (size := int(match[1], 16)) == 0:
            break
        yield from reader.pieces(size)
        if (end := b"".join(reader.pieces(2))) != b"\r\n":
            raise wire.Malformed(f"chunk ended by {end!r}")
    while (line := reader.until(b"\r\n")) != b"\r\n":
        match = wire.FIELD_LINE.fullmatch(line.removesuffix(b"\r\n"))
        if not match:
            raise wire.Malformed(f"trailer {line!r}")
        trailers.append((match[1], match[2]))


def is_delimited(answer: bytes, method: str) -> bool:
    """Whether a reader can tell where `answer` ends without the connection's end."""
    head = answer.partition(b"\r\n\r\n")[0].lower()
    return method == "HEAD" or head[9:12] in (b"204", b"304") or b"\r\ncontent-length:" in head or b"\r\ntransfer-encoding:" in head
