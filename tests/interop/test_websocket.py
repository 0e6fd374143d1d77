"""WebSockets through countersign, by the `websockets` library on both sides; the handshake is judged like any request."""

import contextlib
import socket
import threading

import pytest
from conftest import configuration, content, route
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Opcode
from websockets.server import ServerProtocol
from websockets.sync.client import connect

LARGEST = 128 * 1024  # API Gateway's own limit of a message
PATIENCE = 20.0


def choose(_protocol, offered):
    return "mqtt" if "mqtt" in offered else None


class Backend:
    """Says everything twice, and does what it is told: the server side, over the connection of a handshake."""

    def __init__(self):
        self.closes: list[tuple[int | None, str | None]] = []  # what clients closed with
        self.changed = threading.Condition()

    def __call__(self, sock, seen):
        protocol = ServerProtocol(select_subprotocol=choose, extensions=[ServerPerMessageDeflateFactory()], max_size=2 * LARGEST)
        protocol.receive_data(seen.head)
        (request,) = protocol.events_received()
        protocol.send_response(protocol.accept(request))
        whole, kind = b"", None
        data = seen.head
        while data:
            for out in protocol.data_to_send():
                # an empty piece is the end of what is said
                sock.sendall(out) if out else sock.shutdown(socket.SHUT_WR)
            data = sock.recv(64 * 1024)
            protocol.receive_data(data) if data else protocol.receive_eof()
            for frame in protocol.events_received():
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    whole, kind = whole + frame.data, frame.opcode if frame.opcode is not Opcode.CONT else kind
                    if frame.fin:
                        self.answer(protocol, whole, kind)
                        whole, kind = b"", None
                elif frame.opcode is Opcode.PONG:
                    protocol.send_text(b"pong " + frame.data)
        with self.changed:
            self.closes.append((protocol.close_code, protocol.close_reason))
            self.changed.notify_all()

    @staticmethod
    def answer(protocol, message, kind):
        if message == b"ping me":
            protocol.send_ping(b"mark")
        elif message == b"close me":
            protocol.send_close(4001, "enough")
        elif kind is Opcode.TEXT:
            protocol.send_text(message)
        else:
            protocol.send_binary(message)

    def closed_with(self, *expected) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: expected in self.closes, PATIENCE)


@pytest.fixture(scope="module")
def backend(gateway):
    backend = Backend()
    for stage in ("/prod", "/bearer", "/open"):
        gateway.handlers[stage] = backend
    return backend


@pytest.fixture(scope="module")
def sidecar(start, gateway, token_endpoint, backend):
    on = {"websocket": "true"}
    return start(
        configuration(
            route(gateway, "/ws", "/prod", "session", **on),
            route(gateway, "/plain", "/prod", "plain", **on),
            route(gateway, "/bearer", "/bearer", "bearer", **on),
            route(gateway, "/open", "/open", "none", **on),
            route(gateway, "/off", "/open/off", "none"),
            route(gateway, "/nowhere", "/elsewhere", "none", **on),
            token_url=token_endpoint.url,
        )
    )


@contextlib.contextmanager
def opened(sidecar, path, **more):
    url = "ws://%s:%d%s" % (*sidecar.proxy, path)
    with connect(url, open_timeout=PATIENCE, close_timeout=PATIENCE, max_size=2 * LARGEST, proxy=None, **more) as websocket:
        yield websocket


@pytest.mark.parametrize("path", ["/ws", "/plain", "/bearer", "/open"])
def test_messages_come_back(sidecar, gateway, path):
    with opened(sidecar, path, additional_headers={"x-tag": "echo" + path}) as websocket:
        for message in ["", "hello", "é あ 😀", b"", b"\x00\xff\r\n", "x" * LARGEST, content(LARGEST), content(LARGEST)[::-1]]:
            websocket.send(message)
            assert websocket.recv(PATIENCE) == message
    (seen,) = gateway.tagged("echo" + path)
    assert seen.complaints == ()
    assert seen.values("origin") == []


def test_fragments_come_back(sidecar):
    with opened(sidecar, "/ws", compression=None) as websocket:
        websocket.send(["one, ", "two, ", "three"])
        assert websocket.recv(PATIENCE) == "one, two, three"


def test_many_messages_keep_their_order(sidecar):
    with opened(sidecar, "/ws") as websocket:
        sender = threading.Thread(target=lambda: [websocket.send(str(n)) for n in range(2000)])
        sender.start()
        assert [websocket.recv(PATIENCE) for _ in range(2000)] == [str(n) for n in range(2000)]
        sender.join(PATIENCE)


def test_the_query_is_signed(sidecar, gateway):
    with opened(sidecar, "/ws?token=a+b&empty=&c", additional_headers={"x-tag": "query"}):
        pass
    (seen,) = gateway.tagged("query")
    assert (seen.target, seen.complaints) == (b"/prod?token=a%20b&empty=&c", ())


def test_pings_are_answered_on_both_sides(sidecar):
    with opened(sidecar, "/ws") as websocket:
        assert websocket.ping().wait(PATIENCE)
        websocket.send("ping me")
        assert websocket.recv(PATIENCE) == "pong mark"


def test_a_subprotocol_and_an_extension_are_agreed_on(sidecar):
    with opened(sidecar, "/ws", subprotocols=["chat", "mqtt"]) as websocket:
        assert websocket.subprotocol == "mqtt"
        assert [extension.name for extension in websocket.protocol.extensions] == ["permessage-deflate"]


def test_a_clients_close_code_arrives(sidecar, backend):
    with opened(sidecar, "/ws") as websocket:
        websocket.close(4000, "done here")
    assert backend.closed_with(4000, "done here")


def test_an_apis_close_code_arrives(sidecar):
    with opened(sidecar, "/ws") as websocket:
        websocket.send("close me")
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(PATIENCE)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")


def test_a_client_that_vanishes_is_told_to_the_api(sidecar, backend):
    with contextlib.suppress(ConnectionClosed), opened(sidecar, "/ws") as websocket:
        websocket.send("hello")
        assert websocket.recv(PATIENCE) == "hello"
        websocket.socket.shutdown(2)
    assert backend.closed_with(1006, "")


def test_an_api_that_refuses_the_handshake_is_heard(sidecar, gateway):
    with pytest.raises(InvalidStatus) as refused, opened(sidecar, "/nowhere", additional_headers={"x-tag": "refused"}):
        pass
    assert refused.value.response.status_code == 403
    assert "x-countersign-error" not in refused.value.response.headers
    assert len(gateway.tagged("refused")) == 1


def test_a_web_page_gets_none(sidecar, gateway):
    before = gateway.requests
    for origin in ["http://evil.test", "null", sidecar.url]:
        with pytest.raises(InvalidStatus) as refused, opened(sidecar, "/ws", origin=origin):
            pass
        assert refused.value.response.status_code == 403
        assert refused.value.response.headers["x-countersign-error"] == "caller-refused"
    assert gateway.requests == before


def test_a_route_that_takes_none_sends_a_plain_get(sidecar, gateway):
    with pytest.raises(InvalidStatus) as refused, opened(sidecar, "/off", additional_headers={"x-tag": "off"}):
        pass
    assert refused.value.response.status_code == 200
    (seen,) = gateway.tagged("off")
    assert seen.values("upgrade") == [] and seen.values("connection") == []
