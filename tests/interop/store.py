"""Debian's redis-server as a test wants it: with TLS, users, replicas, nodes; and a client that says what it is told to.

The client speaks the protocol by itself, so that the store is asked by other code than ours. Ports are free ones: the
server takes none of its own choice, so one is looked for, and another if that was taken meanwhile.
"""

import contextlib
import pathlib
import socket
import ssl
import subprocess
import threading
import time

from doubles import SOON

ADMIN = "admin-of-the-test"
# What docs/token-cache.md says that the user needs.
RIGHTS = "-@all +eval +type +get +getrange +pttl +set +del +pexpire"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Refused(Exception):
    """An error that the server answered."""


class Client:
    """One connection: `client("SET", "a", b"b")`."""

    def __init__(self, port, password=None, tls=None):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SOON)
        if tls:
            self._socket = tls.wrap_socket(self._socket, server_hostname="localhost")
        self._reader = self._socket.makefile("rb")
        if password:
            self("AUTH", password)

    def __call__(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self._socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        return self.read()

    def read(self):
        line = self._reader.readline()
        if not line:
            raise ConnectionResetError
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise Refused(rest.decode())
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._reader.read(int(rest) + 2)[:-2]
        return None if rest == b"-1" else [self.read() for _ in range(int(rest))]

    def close(self):
        self._reader.close()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Server:
    """A redis-server, which may be killed and started again on its port. `ca` has it speak TLS alone."""

    def __init__(self, directory: pathlib.Path, *lines, ca=None):
        self._directory = directory
        self._lines = lines
        self._ca = ca
        self._process = None
        self.port = None
        directory.mkdir(parents=True, exist_ok=True)
        if ca:
            certificate = ca.issue_cert("localhost", "127.0.0.1")
            certificate.private_key_pem.write_to_path(directory / "key.pem")
            certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
            ca.cert_pem.write_to_path(directory / "ca.pem")

    @property
    def url(self):
        return f"rediss://localhost:{self.port}" if self._ca else f"redis://127.0.0.1:{self.port}"

    @property
    def rdb(self):
        return self._directory / "dump.rdb"

    def start(self):
        for _ in range(5):
            port = self.port or free_port()
            listens = (
                f"port 0\ntls-port {port}\ntls-cert-file cert.pem\ntls-key-file key.pem\n"
                "tls-ca-cert-file ca.pem\ntls-auth-clients no"
                if self._ca else f"port {port}"
            )
            (self._directory / "redis.conf").write_text("\n".join([
                listens, "bind 127.0.0.1", f"dir {self._directory}", 'save ""', "appendonly no",
                "enable-debug-command yes", "repl-diskless-sync-delay 0",
                f"user default on >{ADMIN} ~* &* +@all", f"masterauth {ADMIN}", *self._lines, "",
            ]))
            with open(self._directory / "redis.log", "ab") as log:
                self._process = subprocess.Popen(
                    ["redis-server", str(self._directory / "redis.conf")], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    cwd=self._directory,
                )
            if self._is_up(port):
                self.port = port
                return self
        raise AssertionError((self._directory / "redis.log").read_text()[-4000:])

    def _is_up(self, port):
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False
            try:
                with self._client(port) as client:
                    return client("PING") == "PONG"
            except (OSError, Refused):
                time.sleep(0.02)  # a pause of the poll
        return False

    def _client(self, port):
        tls = ssl.create_default_context(cafile=self._directory / "ca.pem") if self._ca else None
        return Client(port, ADMIN, tls)

    def client(self):
        return self._client(self.port)

    def __call__(self, *words):
        with self.client() as client:
            return client(*words)

    def kill(self):
        self._process.kill()
        self._process.wait(SOON)

    def stop(self):
        if self._process and self._process.poll() is None:
            self.kill()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def keys(self):
        return sorted(key.decode() for key in self("KEYS", "*"))

    def entries(self):
        """All sealed tokens by key."""
        return {key: self("GET", key) for key in self.keys() if key.endswith(":token")}

    def everything(self):
        """All that whoever has the store can read: each key, each value, and the file of a dump."""
        found = b"\n".join(part for key in self.keys() for part in (key.encode(), self("DUMP", key)) if part)
        self("SAVE")
        return found + self.rdb.read_bytes()

    @contextlib.contextmanager
    def overheard(self):
        """What clients say to it meanwhile, as MONITOR tells it."""
        heard, client = [], self.client()
        client("MONITOR")

        def listen():
            with contextlib.suppress(OSError, ValueError):
                while True:
                    heard.append(client.read())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield heard
        client._socket.shutdown(socket.SHUT_RDWR)
        thread.join(SOON)
        client.close()


class Cluster:
    """Three nodes on loopback that share the slots."""

    def __init__(self, directory):
        self._stack = contextlib.ExitStack()
        self.nodes = []
        self._directory = directory

    def __enter__(self):
        for number in range(3):
            lines = ["cluster-enabled yes", f"cluster-port {free_port()}", "cluster-node-timeout 2000"]
            self.nodes.append(self._stack.enter_context(Server(self._directory / f"node{number}", *lines)))
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            node("CLUSTER", "ADDSLOTSRANGE", number * 5462, min(number * 5462 + 5461, 16383))
        for node in self.nodes[1:]:
            bus = node("CONFIG", "GET", "cluster-port")[1].decode()
            first("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        until(lambda: all(b"cluster_state:ok" in node("CLUSTER", "INFO") and b"cluster_known_nodes:3" in node("CLUSTER", "INFO")
                          for node in self.nodes), "a cluster")
        return self

    def __exit__(self, *arguments):
        return self._stack.__exit__(*arguments)


class Name:
    """A name that leads to one server or another: a TCP relay."""

    def __init__(self, target):
        self.target = target
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._open = []

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._socket.close()
        self.cut()

    def lead_to(self, target):
        self.target = target
        self.cut()

    def cut(self):
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target.port), timeout=SOON)
                except OSError:
                    near.close()
                    continue
                self._open += [near, far]
                for here, there in [(near, far), (far, near)]:
                    threading.Thread(target=self._carry, args=(here, there), daemon=True).start()

    @staticmethod
    def _carry(here, there):
        with contextlib.suppress(OSError):
            while data := here.recv(65536):
                there.sendall(data)
        for end in (here, there):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def until(seen, what, within=SOON):
    """Asks `seen` again and again."""
    deadline = time.monotonic() + within
    while not seen():
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        time.sleep(0.05)  # a pause of the poll
