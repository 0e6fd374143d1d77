"""APIs that keep what they get and answer what they are told: on plain HTTP/1.1, byte for byte, and on HTTP/2."""

import contextlib
import re
import socket
import ssl
import threading
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import trustme
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


# An answer's fields that HTTP/2 has no place for (RFC 9113 8.2.2)
CONNECTION_FIELDS = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}


@dataclass
class Stream:
    """A request while it comes, and its answer while it goes."""

    fields: list[Field]
    body: bytearray = field(default_factory=bytearray)
    trailers: list[Field] = field(default_factory=list)
    whole_in_head: bool = False
    answer: bytes = b""
    answer_trailers: list[Field] = field(default_factory=list)


class Http2Upstream:
    """Speaks HTTP/2 over TLS, to localhost. What arrives is told in the words of HTTP/1.1: Host, and framing "chunked" for
    content without a length. The h2 library refuses what RFC 9113 forbids; that is a failure."""

    def __init__(self, reply):
        self.reply = reply
        self.arrived: list[Arrived] = []
        self.failures: list[str] = []
        self.ca = trustme.CA()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_alpn_protocols(["h2"])
        self.ca.issue_cert("localhost").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _converse(self, plain: socket.socket):
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(client_side=False, header_encoding=None, normalize_inbound_headers=False, normalize_outbound_headers=False)
        connection = h2.connection.H2Connection(config)
        streams: dict[int, Stream] = {}
        try:
            with self._context.wrap_socket(plain, server_side=True) as sock:
                connection.initiate_connection()
                sock.sendall(connection.data_to_send())
                while data := sock.recv(65536):
                    for event in connection.receive_data(data):
                        self._take(connection, streams, event)
                    for number in list(streams):
                        self._send(connection, streams, number)
                    sock.sendall(connection.data_to_send())
        except OSError:
            pass  # the peer dropped the connection; the test sees what came of it
        except Exception as error:
            self.failures.append(f"{error!r}")

    def _take(self, connection, streams: dict[int, Stream], event):
        match event:
            case h2.events.RequestReceived():
                streams[event.stream_id] = Stream([(bytes(name), bytes(value)) for name, value in event.headers], whole_in_head=event.stream_ended is not None)
            case h2.events.DataReceived():
                streams[event.stream_id].body += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.TrailersReceived():
                streams[event.stream_id].trailers += event.headers
            case h2.events.StreamReset():
                streams.pop(event.stream_id, None)
            case h2.events.StreamEnded():
                self._answer(connection, streams, event.stream_id)

    def _answer(self, connection, streams: dict[int, Stream], number: int):
        stream = streams[number]
        pseudo = {name: value for name, value in stream.fields if name.startswith(b":")}
        fields = [(b"host", pseudo[b":authority"]), *(pair for pair in stream.fields if not pair[0].startswith(b":"))]
        if not stream.whole_in_head and not values(fields, b"content-length"):
            fields.append((b"transfer-encoding", b"chunked"))
        head = b"%s %s HTTP/1.1\r\n" % (pseudo[b":method"], pseudo[b":path"])
        arrived = Arrived(head, pseudo[b":method"].decode(), pseudo[b":path"], fields, bytes(stream.body), stream.trailers)
        self.arrived.append(arrived)
        raw_head, _, rest = self.reply(arrived).partition(b"\r\n\r\n")
        first, answer_fields = wire.split_head(raw_head + b"\r\n\r\n")
        if arrived.method != "HEAD" and values(answer_fields, b"transfer-encoding"):
            stream.answer = b"".join(chunks(Held(rest), stream.answer_trailers))
        elif arrived.method != "HEAD":
            stream.answer = rest
        sent = [(b":status", first[9:12]), *((name.lower(), value) for name, value in answer_fields if name.lower() not in CONNECTION_FIELDS)]
        connection.send_headers(number, sent, end_stream=not stream.answer and not stream.answer_trailers)
        if not stream.answer and not stream.answer_trailers:
            del streams[number]

    @staticmethod
    def _send(connection, streams: dict[int, Stream], number: int):
        """As much of the answer as the peer's windows take."""
        stream = streams[number]
        while stream.answer:
            size = min(connection.local_flow_control_window(number), connection.max_outbound_frame_size, len(stream.answer))
            if size == 0:
                return
            piece, stream.answer = stream.answer[:size], stream.answer[size:]
            connection.send_data(number, piece, end_stream=not stream.answer and not stream.answer_trailers)
            if not stream.answer and not stream.answer_trailers:
                del streams[number]
                return
        if stream.answer_trailers:
            connection.send_headers(number, [(name.lower(), value) for name, value in stream.answer_trailers], end_stream=True)
            del streams[number]


class Held(wire.Reader):
    """Reads what is already there."""

    def __init__(self, data: bytes):
        super().__init__(None)
        self.held += data

    def _more(self) -> bool:
        return False
