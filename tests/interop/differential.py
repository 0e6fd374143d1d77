"""The same requests through two proxies to one API, and what differs between them: the requests, and the comparison."""

import gzip
import re
import socket
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import targets
import wire
from conftest import content
from upstream import chunks
from wire import Field, values

KIB = 1024

# Requests, and what the API answers to each


@dataclass(frozen=True)
class Case:
    name: str
    method: str = "GET"
    target: bytes = b"/x"
    lines: tuple[bytes, ...] = ()
    body: bytes | None = None
    chunk: int = 0  # size of the chunks, 0 for Content-Length
    trailers: tuple[bytes, ...] = ()
    version: bytes = b"HTTP/1.1"
    answer: bytes = b""

    def message(self, number: int) -> bytes:
        lines = [b"Host: localhost", b"X-Case: %d" % number, *self.lines]
        sent = b""
        if self.body is not None and self.chunk:
            lines.append(b"Transfer-Encoding: chunked")
            pieces = (self.body[at : at + self.chunk] for at in range(0, len(self.body), self.chunk))
            sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            sent += b"0\r\n" + b"".join(line + b"\r\n" for line in self.trailers) + b"\r\n"
        elif self.body is not None:
            lines.append(b"Content-Length: %d" % len(self.body))
            sent = self.body
        return b"\r\n".join([b"%s %s %s" % (self.method.encode(), self.target, self.version), *lines, b"", sent])


ALWAYS = (b"Date: Sun, 06 Nov 1994 08:49:37 GMT", b"Server: an API")


def answer(status: bytes = b"200 OK", *lines: bytes, body: bytes | None = b"", always=ALWAYS) -> bytes:
    framing = () if body is None else (b"Content-Length: %d" % len(body),)
    return b"\r\n".join([b"HTTP/1.1 " + status, *always, *lines, *framing, b"", body or b""])


def chunked_answer(body: bytes, size: int, *lines: bytes, trailers: tuple[bytes, ...] = ()) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    sent = b"".join(b"%X\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n"
    sent += b"".join(line + b"\r\n" for line in trailers) + b"\r\n"
    return answer(b"200 OK", *lines, b"Transfer-Encoding: chunked", body=None) + sent


SIZES = [0, 1, 2, 511, 4095, 4096, 8 * KIB, 16 * KIB + 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 100_000, KIB * KIB]
GZIPPED = gzip.compress(content(5000), mtime=0)
LONG = b"v" * 8000
REQUEST_LINES = {
    "no field but Host": (),
    "odd case": (b"x-ODD-cAsE: KeptValue", b"ACCEPT: */*"),
    "a repeated field": (b"X-Many: 1", b"X-Many: 2", b"X-Many: 2", b"X-Many: 0"),
    "a repeated field, apart": (b"X-Many: 1", b"X-Other: o", b"x-many: 2"),
    "fifty equal names": tuple(b"X-Many: %d" % n for n in range(50)),
    "sixty fields": tuple(b"X-F%d: %d" % (n, n) for n in range(60)),
    "an empty value": (b"X-Empty:", b"X-Blank:   "),
    "white space around": (b"X-Odd:  \t a b \t ",),
    "double spaces and tabs inside": (b"X-Odd: a  b\tc\t\td",),
    "obs-text": (b"X-Odd: caf\xe9 \x80\xff",),
    "UTF-8": ("X-Odd: café あ".encode(),),
    "an 8 KB value": (b"X-Long: " + LONG,),
    "two long values": (b"X-Long: " + LONG, b"X-Long: " + LONG[::-1]),
    "quotes, commas, semicolons": (b"X-Odd: \"a, b\";c:d=e,,f",),
    "every token character": (b"!#$%&'*+-.^`|~09az: v",),
    "underscores": (b"my_field: 1",),
    "cookies in one line": (b"Cookie: a=1; b=\"2\"; c=x=y",),
    "cookies in two lines": (b"Cookie: a=1", b"Cookie: b=2"),
    "accept fields": (b"Accept: text/html, */*;q=0.1", b"Accept-Language: ja,en;q=0.5", b"Accept-Encoding: gzip, br"),
    "user-agent": (b"User-Agent: curl/8.0 (x; y) \"z\"",),
    "conditions and ranges": (b"If-None-Match: W/\"a\", \"b\"", b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", b"Range: bytes=0-1,5-", b"If-Range: \"a\""),
    "cache fields": (b"Cache-Control: no-cache, max-age=0", b"Pragma: no-cache"),
    "date and from": (b"Date: Sun, 06 Nov 1994 08:49:37 GMT", b"From: a@b.test", b"Referer: http://localhost/a?b"),
    "the caller's own authorization": (b"Authorization: Bearer of.the.caller",),
    "the caller's own signature": (b"Authorization: AWS4-HMAC-SHA256 Credential=A/20250101/r/s/aws4_request, SignedHeaders=host, Signature=" + b"0" * 64, b"X-Amz-Date: 20250101T000000Z", b"X-Amz-Security-Token: t", b"X-Amz-Content-Sha256: UNSIGNED-PAYLOAD"),
    "trace ids": (b"X-Amzn-Trace-Id: Root=1-5759e988-bd862e3fe1be46a994272793", b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"tracestate: a=b"),
    "a request id": (b"X-Request-Id: mine.1",),
    "connection: close": (b"Connection: close",),
    "connection: keep-alive": (b"Connection: keep-alive", b"Keep-Alive: timeout=5"),
    "te: trailers": (b"TE: trailers", b"Connection: TE"),
    "nominated fields": (b"Connection: X-A, x-b", b"X-A: 1", b"X-B: 2", b"X-C: 3"),
    "proxy fields": (b"Proxy-Authorization: Basic dXNlcjpwYXNz", b"Proxy-Connection: keep-alive"),
    "upgrade to h2c": (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
    "x-forwarded": (b"X-Forwarded-For: 10.0.0.1", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: a.test", b"Forwarded: for=10.0.0.1", b"X-Real-IP: 10.0.0.1"),
    "via another proxy": (b"Via: 1.1 other",),
    "priority and hints": (b"Priority: u=1, i", b"DNT: 1", b"Upgrade-Insecure-Requests: 1", b"Save-Data: on"),
    "method override": (b"X-HTTP-Method-Override: DELETE",),
}  # fmt: skip
ANSWERS = {
    "plain": answer(body=b"hello"),
    "without a date or a server": answer(body=b"hello", always=()),
    "another reason": answer(b"200 Fine by me", body=b"x"),
    "no reason": answer(b"200 ", body=b"x"),
    "201 with a location elsewhere": answer(b"201 Created", b"Location: https://elsewhere.test/a?b#c", body=b"{}"),
    "204": answer(b"204 No Content", body=None),
    "304 with validators": answer(b"304 Not Modified", b"ETag: \"a\"", b"Vary: Accept", body=None),
    "301, relative": answer(b"301 Moved Permanently", b"Location: ../b", body=b""),
    "307 elsewhere": answer(b"307 Temporary Redirect", b"Location: //elsewhere.test/", body=b""),
    "400 with a body": answer(b"400 Bad Request", b"Content-Type: application/json", body=b'{"message":"no"}'),
    "401 with challenges": answer(b"401 Unauthorized", b"WWW-Authenticate: Basic realm=\"a\"", b"WWW-Authenticate: Bearer", body=b""),
    "404": answer(b"404 Not Found", body=b"nothing"),
    "416": answer(b"416 Range Not Satisfiable", b"Content-Range: bytes */5", body=b""),
    "429 with retry-after": answer(b"429 Too Many Requests", b"Retry-After: 30", body=b""),
    "500": answer(b"500 Internal Server Error", body=b"oops"),
    "503": answer(b"503 Service Unavailable", b"Retry-After: 1", body=b"later"),
    "an unknown status": answer(b"599 Odd", body=b"x"),
    "206 of many parts": answer(b"206 Partial Content", b"Content-Type: multipart/byteranges; boundary=b", body=b"--b\r\n\r\nx\r\n--b--\r\n"),
    "gzip with its length": answer(b"200 OK", b"Content-Encoding: gzip", b"Content-Type: text/html", body=GZIPPED),
    "gzip in chunks": chunked_answer(GZIPPED, 999, b"Content-Encoding: gzip", b"Vary: Accept-Encoding"),
    "every byte": answer(b"200 OK", b"Content-Type: application/octet-stream", body=bytes(range(256)) * 9),
    "cookies": answer(b"200 OK", b"Set-Cookie: a=1; Path=/; Secure; HttpOnly", b"Set-Cookie: b=\"2\"; Domain=api.test", b"set-cookie: a=3", body=b""),
    "repeated fields": answer(b"200 OK", b"X-Many: 1", b"X-Many: 2", b"X-Other: o", b"x-many: 2", body=b""),
    "empty values": answer(b"200 OK", b"X-Empty:", b"X-Blank:   ", body=b""),
    "obs-text": answer(b"200 OK", b"X-Odd: caf\xe9 \x80\xff", body=b""),
    "tabs and spaces inside": answer(b"200 OK", b"X-Odd: a  b\tc", body=b""),
    "an 8 KB value": answer(b"200 OK", b"X-Long: " + LONG, body=b""),
    "fifty equal names": answer(b"200 OK", *[b"X-Many: %d" % n for n in range(50)], body=b""),
    "caching fields": answer(b"200 OK", b"ETag: W/\"a\"", b"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", b"Cache-Control: max-age=1", b"Cache-Control: public", b"Expires: 0", b"Age: 3", b"Vary: *", body=b"x"),
    "a media type with parameters": answer(b"200 OK", b"Content-Type: text/html; charset=ISO-8859-1; x=\"y\"", body=b"\xe9"),
    "content fields": answer(b"200 OK", b"Content-Disposition: attachment; filename=\"a b\"", b"Content-Language: ja", b"Content-Location: /y", body=b"x"),
    "AWS fields": answer(b"200 OK", b"x-amzn-RequestId: 1", b"x-amz-apigw-id: abc=", b"X-Amzn-Trace-Id: Root=1-a", body=b"{}"),
    "a via of its own": answer(b"200 OK", b"Via: 1.1 cloudfront", body=b""),
    "CORS fields": answer(b"200 OK", b"Access-Control-Allow-Origin: *", b"Access-Control-Expose-Headers: x", body=b""),
    "transport fields": answer(b"200 OK", b"Strict-Transport-Security: max-age=1", b"Alt-Svc: h3=\":443\"", body=b""),
    "hop-by-hop fields": answer(b"200 OK", b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"Upgrade: h2c", body=b""),
    "nominated fields": answer(b"200 OK", b"Connection: X-A", b"X-A: 1", b"X-B: 2", body=b""),
    "connection: close": answer(b"200 OK", b"Connection: close", body=b"bye"),
    "until the connection closes": answer(b"200 OK", body=None) + b"all of it",
    "chunks": chunked_answer(content(3000), 1000),
    "one-byte chunks": chunked_answer(content(200), 1),
    "an empty chunked body": chunked_answer(b"", 1),
    "chunks with trailers": chunked_answer(b"body", 4, b"Trailer: X-T", trailers=(b"X-T: 1",)),
}  # fmt: skip


def cases():
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        yield Case(f"{method} without a body", method)
        yield Case(f"{method} with a body", method, body=b"body")
        yield Case(f"{method} with an empty body", method, body=b"")
        yield Case(f"{method} with a chunked body", method, body=b"in chunks", chunk=4)
    for name, lines in REQUEST_LINES.items():
        yield Case(f"fields: {name}", lines=lines)
    for target in targets.TARGETS:
        if target.rule in (targets.OK, targets.DOTS, targets.SLASH, targets.NOTUTF8, targets.PRESIGNED) and len(target.raw) < 2000:
            yield Case(f"target: {target.id}", target=target.raw)
    yield Case("target: a 7 KB query", target=b"/x?q=" + b"q" * 7000)
    yield Case("target: a query of all kinds", target=b"/x?a=1&a=2&b&&c=%20+%7E&d=%2F'()*!")
    for size in SIZES:
        yield Case(f"body: {size} bytes", "POST", lines=(b"Content-Type: application/octet-stream",), body=content(size))
        yield Case(f"body: {size} bytes in chunks", "PUT", body=content(size), chunk=max(1, size // 7))
        yield Case(f"answer: {size} bytes", answer=answer(body=content(size)))
        yield Case(f"answer: {size} bytes in chunks", answer=chunked_answer(content(size), max(1, size // 5)))
    yield Case("body: gzip", "POST", lines=(b"Content-Encoding: gzip",), body=GZIPPED)
    yield Case("body: trailers", "POST", lines=(b"Trailer: X-T",), body=b"body", chunk=4, trailers=(b"X-T: 1",))
    yield Case("body: expect 100-continue", "POST", lines=(b"Expect: 100-continue",), body=b"body")
    for name, raw in ANSWERS.items():
        yield Case(f"answer: {name}", answer=raw)
    yield Case("answer: chunks with trailers that the client takes", lines=(b"TE: trailers",), answer=ANSWERS["chunks with trailers"])
    for name in ("plain", "chunks", "gzip with its length", "204", "304 with validators"):
        # The head that a GET would get, without the body
        yield Case(f"HEAD: {name}", "HEAD", answer=ANSWERS[name].partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    yield Case("HTTP/1.0", version=b"HTTP/1.0", answer=ANSWERS["plain"])
    yield Case("HTTP/1.0, keep-alive", version=b"HTTP/1.0", lines=(b"Connection: keep-alive",), answer=ANSWERS["plain"])
    yield Case("HTTP/1.0, answered in chunks", version=b"HTTP/1.0", answer=ANSWERS["chunks"])


CASES = list(cases())

# What both sides saw


@dataclass
class Message:
    """A request as the API saw it, or an answer as the client got it."""

    start: str
    fields: list[Field] = field(default_factory=list)
    body: bytes = b""
    framing: str = "none"
    trailers: list[Field] = field(default_factory=list)
    interim: list[bytes] = field(default_factory=list)


class Difference(NamedTuple):
    side: str  # "API" or "client"
    what: str
    reference: object
    ours: object


FRAMING = {b"content-length", b"transfer-encoding"}


def by_name(fields: list[Field]) -> dict[bytes, list[bytes]]:
    found = defaultdict(list)
    for name, value in fields:
        if name.lower() not in FRAMING:
            found[name.lower()].append(value)
    return found


def compare(side: str, reference: Message | None, ours: Message | None):
    """Yields what differs; a message that one of them did not pass on is one difference."""
    if reference is None or ours is None:
        if reference is not ours:
            yield Difference(side, "passed on", reference and reference.start, ours and ours.start)
        return
    for what in ("start", "body", "framing", "trailers", "interim"):
        if getattr(reference, what) != getattr(ours, what):
            yield Difference(side, what, getattr(reference, what), getattr(ours, what))
    theirs, mine = by_name(reference.fields), by_name(ours.fields)
    for name in sorted(theirs.keys() | mine.keys()):
        if theirs.get(name) != mine.get(name):
            yield Difference(side, f"field {name.decode()}", theirs.get(name), mine.get(name))
    common = theirs.keys() & mine.keys()
    spelt = [[name for name, _ in message.fields if name.lower() in common] for message in (reference, ours)]
    if sorted(spelt[0]) != sorted(spelt[1]) and sorted(n.lower() for n in spelt[0]) == sorted(n.lower() for n in spelt[1]):
        yield Difference(side, "case of names", *spelt)
    orders = [list(dict.fromkeys(name.lower() for name in names)) for names in spelt]
    if orders[0] != orders[1]:
        yield Difference(side, "order of different names", *orders)


def ours_is_gone(case: Case, difference: Difference) -> bool:
    return difference.ours is None


def ours_is_new(case: Case, difference: Difference) -> bool:
    return difference.reference is None


def ours_is_lower(case: Case, difference: Difference) -> bool:
    return difference.ours == [name.lower() for name in difference.ours]


@dataclass(frozen=True)
class Rule:
    """A difference that is meant to be."""

    side: str
    what: str  # pattern of Difference.what
    says: str
    source: str
    holds: Callable[[Case, Difference], bool] = lambda case, difference: True

    def explains(self, case: Case, difference: Difference) -> bool:
        return self.side == difference.side and re.fullmatch(self.what, difference.what) is not None and self.holds(case, difference)


def read_message(sock: socket.socket, method: str) -> Message:
    reader, interim = wire.Reader(sock), []
    while True:
        head = reader.until(b"\r\n\r\n")
        if not head:
            raise wire.Cut("closed without an answer")
        first, fields = wire.split_head(head)
        if not first[9:10] == b"1":
            break
        interim.append(first)
    message = Message(first.decode(), fields, interim=interim)
    if values(fields, b"transfer-encoding"):
        message.framing = "chunked"
    elif lengths := values(fields, b"content-length"):
        message.framing = f"length {lengths[0].decode()}"
    if method == "HEAD" or first[9:12] in (b"204", b"304"):
        return message
    if message.framing == "chunked":
        message.body = b"".join(chunks(reader, message.trailers))
    elif message.framing == "none":
        message.body, message.framing = b"".join(reader.rest()), "close"
    else:
        message.body = b"".join(reader.pieces(int(message.framing.removeprefix("length "))))
    return message


def exchange(connect, upstream, number: int) -> tuple[Message | None, Message]:
    """Sends one case; what the API saw, and what came back."""
    before = len(upstream.arrived)
    with connect() as sock:
        sock.sendall(CASES[number].message(number))
        got = read_message(sock, CASES[number].method)
    arrived = upstream.arrived[before:]
    assert len(arrived) <= 1, f"{CASES[number].name}: sent {len(arrived)} times"
    if not arrived:
        return None, got
    [seen] = arrived
    start = seen.head.partition(b"\r\n")[0].decode("latin-1")
    return Message(start, seen.fields, seen.body, seen.framing, seen.trailers), got
