"""An API Gateway that believes nothing: a raw TLS HTTP/1.1 server that recomputes every signature from the bytes on the wire.

Two signers that share no code with ours judge each request: botocore (Python) and awscrt (C). A framework would not
do: each normalises the path before a handler sees it. It speaks HTTP/1.1 only, so that the bytes are the message.
"""

import base64
import contextlib
import datetime
import hashlib
import hmac
import json
import re
import socket
import ssl
import threading
from collections import deque
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes, urlsplit

import trustme
from awscrt.auth import (
    AwsCredentialsProvider,
    AwsSignedBodyHeaderType,
    AwsSigningConfig,
    aws_sign_request,
)
from awscrt.http import HttpHeaders, HttpRequest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import wire
from wire import Field, values

HOST = "abc123.execute-api.ap-northeast-1.amazonaws.com"
REGION = "ap-northeast-1"
SERVICE = "execute-api"
WINDOW = 300  # seconds: execute-api's clock window, docs/aws.md A5
KEPT_BODY = 64 * 1024

# Fields that belong to one connection (RFC 9110 7.6.1), or that countersign answers itself (Expect).
HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate",
    b"te", b"trailer", b"upgrade", b"http2-settings", b"expect", b"x-countersign-token",
}  # fmt: skip
# Fields that something between us and API Gateway may change: a signature over them breaks (docs/aws.md A3).
MUTABLE = {
    "authorization", "baggage", "connection", "content-length", "expect", "keep-alive", "proxy-authorization", "te",
    "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade", "user-agent", "via", "x-amzn-trace-id",
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One request as it came over the wire."""

    head: bytes
    method: str
    target: bytes
    fields: list[Field]
    sha256: str
    length: int
    body: bytes  # its first 64 KiB
    complaints: tuple[str, ...] = ()

    def values(self, name: str) -> list[bytes]:
        return values(self.fields, name.encode())

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    def as_json(self) -> dict:
        return {
            "method": self.method,
            "target": base64.b64encode(self.target).decode(),
            "headers": [[name.decode(), value.decode("latin-1")] for name, value in self.fields],
            "sha256": self.sha256,
            "length": self.length,
            "complaints": list(self.complaints),
        }


@dataclass(frozen=True)
class Keys:
    """What an IAM identity signs with."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What each judge says; `None` and the empty list are agreement."""

    form: list[str]
    botocore: str | None
    awscrt: str | None

    @property
    def reasons(self) -> list[str]:
        return self.form + [reason for reason in (self.botocore, self.awscrt) if reason]


@dataclass(frozen=True)
class Claim:
    """The parts of an Authorization header."""

    access_key_id: str
    scope: str
    signed: list[str]
    signature: str


def framing(seen: Seen) -> list[str]:
    """What is wrong with the head whatever the authentication: leftovers of the client's connection, two framings."""
    found = [f"hop-by-hop field {name.decode()}" for name, _ in seen.fields if name.lower() in HOP_BY_HOP - switching(seen)]
    lengths, codings = seen.values("content-length"), seen.values("transfer-encoding")
    if len(lengths) + len(codings) > 1:
        found.append("more than one framing field")
    if len(seen.values("host")) != 1:
        found.append("not exactly one Host")
    return found


def switching(seen: Seen) -> set[bytes]:
    """The fields of a WebSocket handshake: a proxy sends its own, exactly these (RFC 6455 4.1)."""
    asked = seen.method == "GET" and seen.values("upgrade") == [b"websocket"] and seen.values("connection") == [b"Upgrade"]
    return {b"upgrade", b"connection"} if asked else set()


def one(seen: Seen, name: str) -> str | None:
    """The value of a field that is there exactly once."""
    found = seen.values(name)
    return found[0].decode("latin-1") if len(found) == 1 else None


def read_claim(seen: Seen) -> Claim | str:
    if (text := one(seen, "authorization")) is None:
        return f"{len(seen.values('authorization'))} Authorization fields"
    match = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/, ]+)/([^, ]+), ?SignedHeaders=([^, ]+), ?Signature=([0-9a-f]{64})", text
    )
    if not match:
        return "Authorization is not of the SigV4 form"
    return Claim(match[1], match[2], match[3].split(";"), match[4])


def query_pairs(query: bytes) -> list[tuple[bytes, bytes]]:
    """Decoded pairs in order; a bare key has an empty value, as in the canonical form."""
    pairs = [piece.partition(b"=") for piece in query.split(b"&")] if query else []
    return [(unquote_to_bytes(name), unquote_to_bytes(value)) for name, _, value in pairs]


def check_form(seen: Seen, claim: Claim, keys: Keys | None, now: datetime.datetime) -> list[str]:
    """Everything AWS or a strict reader would refuse before computing anything."""
    found = framing(seen)
    signed = set(claim.signed)
    names = [name.decode().lower() for name, _ in seen.fields]
    stamp = one(seen, "x-amz-date") or ""
    path, _, query = seen.target.partition(b"?")
    if seen.values("transfer-encoding"):
        found.append("a signed body is sent with its length, not chunked")
    if keys is None:
        found.append("unknown access key id")
    if one(seen, "host") != HOST:
        found.append(f"Host is {seen.values('host')!r}")
    if claim.signed != sorted(signed):
        found.append("SignedHeaders is not sorted or has duplicates")
    found += [f"{name} is not signed" for name in sorted(set(names)) if name == "host" or name.startswith("x-amz-") if name not in signed]
    found += [f"{name} is signed but absent" for name in sorted(signed) if name not in names]
    found += [f"{name} must not be signed" for name in sorted(signed & MUTABLE)]
    if not re.fullmatch(r"\d{8}T\d{6}Z", stamp):
        found.append(f"x-amz-date is {seen.values('x-amz-date')!r}")
    else:
        if abs((now - moment(stamp)).total_seconds()) > WINDOW:
            found.append("x-amz-date is more than 5 minutes off")
        if claim.scope != f"{stamp[:8]}/{REGION}/{SERVICE}/aws4_request":
            found.append(f"scope is {claim.scope}")
    if keys and seen.values("x-amz-security-token") != ([keys.session_token.encode()] if keys.session_token else []):
        found.append("x-amz-security-token is not the one of these keys")
    if any(value != seen.sha256.encode() for value in seen.values("x-amz-content-sha256")):
        found.append("x-amz-content-sha256 is not the hash of the body")
    if not re.fullmatch(rb"/(?:[\x21-\x7e]|%[0-9a-fA-F]{2})*", path) or re.search(rb"%(?![0-9a-fA-F]{2})|[\\#]", path):
        found.append("path has raw non-ASCII, controls, a backslash or a bad escape")
    # Readers differ on '+', on unencoded reserved characters and on empty pairs: the wire must not depend on them.
    if query and canonical_in_order(query) != query:
        found.append("query on the wire is not in canonical encoding")
    return found


def canonical_in_order(query: bytes) -> bytes:
    """Each pair re-encoded (all but unreserved), the order and bare keys kept, '+' a space, empty pairs gone."""

    def encode(text: bytes) -> str:
        return quote(unquote_to_bytes(text.replace(b"+", b" ")), safe="-_.~")

    return b"&".join(
        (encode(name) + equals.decode() + encode(value)).encode()
        for name, equals, value in (piece.partition(b"=") for piece in query.split(b"&") if piece)
    )


def moment(stamp: str) -> datetime.datetime:
    return datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)


def signed_fields(seen: Seen, claim: Claim) -> list[tuple[str, str]]:
    """The fields SignedHeaders lists, as text. Raises if one is not UTF-8: then no two signers agree."""
    return [(name.decode().lower(), value.decode()) for name, value in seen.fields if name.decode().lower() in claim.signed]


class HashedSigV4(SigV4Auth):
    """botocore's signer, given the body's hash instead of the body."""

    def payload(self, request):
        return request.context["sha256"]

    def _header_value(self, value):
        # botocore takes every Unicode space for one (U+00A0, U+0085), awscrt and HTTP only these two
        return re.sub(r"[ \t]+", " ", value.strip(" \t"))


def by_botocore(seen: Seen, claim: Claim, keys: Keys) -> str:
    """The signature botocore makes for these bytes.

    It signs a URL's query as it stands, so the query goes in decoded, as params. `+` is left alone: it never occurs.
    """
    path, _, query = seen.target.partition(b"?")
    url = f"https://{HOST}{path.decode()}"
    if urlsplit(url).path != path.decode():
        raise ValueError("botocore would sign another path")
    pairs = [(name.decode(), value.decode()) for name, value in query_pairs(query)]
    request = AWSRequest(method=seen.method, url=url, params=pairs)
    for name, value in signed_fields(seen, claim):
        request.headers[name] = value
    request.context["sha256"] = seen.sha256
    request.context["timestamp"] = one(seen, "x-amz-date")
    signer = HashedSigV4(Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token), SERVICE, REGION)
    if signer.signed_headers(signer.headers_to_sign(request)).split(";") != claim.signed:
        raise ValueError("botocore would sign other headers")
    return signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)


def by_awscrt(seen: Seen, claim: Claim, keys: Keys) -> str:
    """The signature AWS's C runtime makes for these bytes: path encoded twice and normalised, its defaults."""
    # It refuses these in its input and adds them itself from the config below.
    own = {"x-amz-date", "x-amz-security-token", "x-amz-content-sha256"}
    fields = [field for field in signed_fields(seen, claim) if field[0] not in own]
    # As a whole URL: in a bare path it takes the text before the first ":/" for a scheme (`/a:/b` fails, `/a://b` differs).
    request = HttpRequest(seen.method, f"https://{HOST}{seen.target.decode()}", HttpHeaders(fields))
    hashed = seen.values("x-amz-content-sha256")
    config = AwsSigningConfig(
        credentials_provider=AwsCredentialsProvider.new_static(
            keys.access_key_id, keys.secret_access_key, one(seen, "x-amz-security-token")
        ),
        region=REGION,
        service=SERVICE,
        date=moment(one(seen, "x-amz-date") or ""),
        signed_body_value=seen.sha256,
        signed_body_header_type=AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256 if hashed else AwsSignedBodyHeaderType.NONE,
    )
    text = aws_sign_request(request, config).result(timeout=10).headers.get("Authorization")
    names, signature = re.search(r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]+)", text).groups()
    if names.split(";") != claim.signed:
        raise ValueError(f"awscrt would sign other headers: {names}")
    return signature


def verify(seen: Seen, known: dict[str, Keys], now: datetime.datetime | None = None) -> Verdict:
    """Three judges on one request: its form, botocore's signature, awscrt's signature."""
    claim = read_claim(seen)
    if isinstance(claim, str):
        return Verdict([claim, *framing(seen)], "botocore: nothing to compare", "awscrt: nothing to compare")
    keys = known.get(claim.access_key_id)
    form = check_form(seen, claim, keys, now or datetime.datetime.now(datetime.UTC))
    judged = {}
    for name, recompute in (("botocore", by_botocore), ("awscrt", by_awscrt)):
        try:
            same = keys is not None and hmac.compare_digest(recompute(seen, claim, keys), claim.signature)
            judged[name] = None if same else f"{name}: signature differs"
        except Exception as error:  # a judge that cannot compute does not agree, whatever its reason
            judged[name] = f"{name}: {error!r}"
    return Verdict(form, judged["botocore"], judged["awscrt"])


def verify_bearer(seen: Seen, tokens: set[str]) -> list[str]:
    sent = seen.values("authorization")
    if len(sent) != 1:
        return [f"{len(sent)} Authorization fields", *framing(seen)]
    scheme, _, token = sent[0].decode("latin-1").partition(" ")
    return framing(seen) + ([] if scheme == "Bearer" and token in tokens else ["not a token of ours"])


class Gateway:
    """Serves three stages: /prod wants SigV4, /bearer wants a token, /open wants neither."""

    def __init__(self, port=0):
        self.keys: dict[str, Keys] = {}
        self.tokens: set[str] = set()
        self.handlers = {}  # path -> function(sock, seen), instead of the JSON answer
        self.seen: deque[Seen] = deque(maxlen=1000)
        self.failures: list[str] = []  # our own bugs, and bytes that were not HTTP
        self.requests = 0  # heads that came, judged or not
        self.cut = 0  # requests that ended before their end
        self.ca = trustme.CA()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_alpn_protocols(["http/1.1"])
        self.ca.issue_cert(f"*.execute-api.{REGION}.amazonaws.com", "localhost", "127.0.0.1").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        # shutdown wakes the accept; close alone would leave the thread in it
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def tagged(self, tag: str) -> list[Seen]:
        """The requests that carried `x-tag: tag`: how a test finds its own among others'."""
        with self._lock:
            return [seen for seen in self.seen if seen.values("x-tag") == [tag.encode()]]

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _converse(self, plain: socket.socket):
        plain.settimeout(wire.PATIENCE * 2)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock = self._context.wrap_socket(plain, server_side=True)
        except OSError:  # a refused certificate, or a peer gone: nothing was asked
            plain.close()
            return
        with self._lock:
            self._open.add(sock)
        try:
            reader = wire.Reader(sock)
            while self._serve(sock, reader):
                pass
        except wire.Cut:
            self.cut += 1
        except wire.Malformed as error:
            self.failures.append(f"not HTTP/1.1: {error}")
        except OSError:
            pass  # the proxy dropped the connection; the test sees what came of it
        except Exception as error:
            self.failures.append(f"{error!r}")
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _serve(self, sock, reader: wire.Reader) -> bool:
        """One request; true if the connection goes on."""
        head = reader.until(b"\r\n\r\n")
        if not head:
            return False
        with self._lock:
            self.requests += 1
        first, fields = wire.split_head(head)
        parts = first.split(b" ")
        if len(parts) != 3 or parts[2] != b"HTTP/1.1":
            raise wire.Malformed(f"request line {first!r}")
        lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
        if len(lengths) + len(codings) > 1 or codings not in ([], [b"chunked"]) or not all(map(re.compile(rb"0|[1-9]\d*").fullmatch, lengths)):
            raise wire.Malformed(f"framing {lengths} {codings}")
        digest, length, kept = hashlib.sha256(), 0, bytearray()
        for piece in reader.chunks() if codings else reader.pieces(int(lengths[0]) if lengths else 0):
            digest.update(piece)
            length += len(piece)
            kept += piece[: max(0, KEPT_BODY - len(kept))]
        seen = Seen(head, parts[0].decode(), parts[1], fields, digest.hexdigest(), length, bytes(kept))
        seen = Seen(**{**seen.__dict__, "complaints": tuple(self.judge(seen))})
        with self._lock:
            self.seen.append(seen)
        handler = self.handlers.get(seen.path.decode("latin-1"))
        if seen.complaints:
            answer(sock, seen, 403, json.dumps(seen.as_json() | {"headers": []}).encode())
        elif handler:
            handler(sock, seen)
        else:
            answer(sock, seen, 200, json.dumps(seen.as_json()).encode())
        return True

    def judge(self, seen: Seen) -> list[str]:
        stage = seen.path.split(b"/")[1]
        if stage == b"prod":
            return verify(seen, self.keys).reasons
        if stage == b"bearer":
            return verify_bearer(seen, self.tokens)
        if stage == b"open":
            return framing(seen)
        return [f"no stage {stage!r}: outside every route's base path"]


def answer(sock, seen: Seen, status: int, body: bytes):
    head = f"HTTP/1.1 {status} Told\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + (b"" if seen.method == "HEAD" else body))
