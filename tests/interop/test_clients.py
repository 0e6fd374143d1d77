"""Real clients with their default settings through the proxy: verified, streamed, and in constant memory."""

import asyncio
import base64
import hashlib
import http.client
import io
import json
import pathlib
import queue
import shutil
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager

import aiohttp
import httpx
import pytest
import requests
import targets
import urllib3
import wire
from conftest import configuration, content, route

PATIENCE = wire.PATIENCE
MIB = 1024 * 1024
GROWTH = 8 * MIB  # of the proxy while 200 MB pass: copy buffers, not bodies
TRANSFER = 200 * 1000 * 1000
BODY = content(100_000)


@pytest.fixture(scope="module")
def sidecar(gateway, start, token_endpoint):
    return start(
        configuration(
            route(gateway, "/signed", "/prod", "session"),
            route(gateway, "/bearer", "/bearer", "bearer"),
            token_url=token_endpoint.url,
        )
    )


@pytest.fixture(params=["signed", "bearer"])
def base(request, sidecar) -> str:
    """The URL of a SigV4 route, then of a bearer route."""
    return f"{sidecar.url}/{request.param}"


def command(*arguments: str, stdin: bytes | None = None) -> bytes:
    """What a program prints; it must end well."""
    if shutil.which(arguments[0]) is None:
        pytest.fail(f"{arguments[0]} is not installed: run tests/interop/packages as root", pytrace=False)
    done = subprocess.run(arguments, input=stdin, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{arguments[0]} ended with {done.returncode}: {done.stderr.decode()[-2000:]}"
    return done.stdout


def curl(*arguments: str, stdin: bytes | None = None) -> dict:
    return json.loads(command("curl", "--silent", "--show-error", "--fail-with-body", *arguments, stdin=stdin))


def node(script: str, *arguments: str) -> dict:
    """Runs a script that gets `url` and prints JSON. A status other than 200 is an error of the script's own."""
    wrapped = f"const [url] = process.argv.slice(1); (async () => {{ {script} }})().catch(e => {{ console.error(e); process.exit(1) }});"
    return json.loads(command("node", "-e", wrapped, *arguments))


def assert_seen(seen: dict, method: str, path: str = "/x", body: bytes | None = b"", **fields: str):
    """The gateway answers 200 only to what it verified; here: that it was the right request."""
    assert seen["complaints"] == []
    assert seen["method"] == method
    target = base64.b64decode(seen["target"]).decode()
    assert target.removeprefix("/prod").removeprefix("/bearer") == path
    if body is not None:
        assert (seen["length"], seen["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    arrived = {name.lower(): value for name, value in seen["headers"]}
    for name, value in fields.items():
        assert arrived[name.replace("_", "-")].startswith(value)


# curl


def test_curl_gets(base):
    assert_seen(curl(f"{base}/x"), "GET", user_agent="curl/")


def test_curl_gets_a_query_with_spaces_and_unicode(base):
    arguments = ("--get", "--data-urlencode", "q=a b+c&あ", "--data-urlencode", "r=~*", f"{base}/x")
    # A signed query goes out in canonical form, any other as curl wrote it: curl 7 writes a space as %20 (8: +) and * as %2A
    query = base64.b64decode((seen := curl(*arguments))["target"]).partition(b"?")[2]
    assert targets.pairs(query) == [(b"q", "a b+c&あ".encode()), (b"r", b"~*")]
    assert_seen(seen, "GET", f"/x?{query.decode()}")


def test_curl_asks_for_a_head(base):
    printed = command("curl", "--silent", "--show-error", "--fail", "--head", f"{base}/x")
    assert printed.startswith(b"HTTP/1.1 200 ")


def test_curl_posts_a_form(base):
    assert_seen(curl("-d", "a=b c&d=é", f"{base}/x"), "POST", body="a=b c&d=é".encode(), content_type="application/x-www-form-urlencoded")


def test_curl_posts_multipart(base, tmp_path):
    (tmp_path / "file.bin").write_bytes(BODY)
    seen = curl("-F", "note=héllo", "-F", f"file=@{tmp_path}/file.bin", f"{base}/x")
    assert_seen(seen, "POST", body=None, content_type="multipart/form-data; boundary=")
    assert seen["length"] > len(BODY)


def test_curl_uploads_a_file_with_put(base, tmp_path):
    (tmp_path / "file.bin").write_bytes(BODY)
    assert_seen(curl("-T", f"{tmp_path}/file.bin", f"{base}/x"), "PUT", body=BODY)


def test_curl_uploads_in_chunks_from_a_pipe(base):
    assert_seen(curl("-T", "-", f"{base}/x", stdin=BODY), "PUT", body=BODY)


def test_curl_posts_in_chunks(base):
    assert_seen(curl("-H", "Transfer-Encoding: chunked", "--data-binary", "@-", f"{base}/x", stdin=BODY), "POST", body=BODY)


def test_curl_expects_100_continue_for_a_large_body_and_gets_it(base):
    body = content(2 * MIB)
    assert_seen(curl("-H", "Expect: 100-continue", "--expect100-timeout", "20", "--data-binary", "@-", f"{base}/x", stdin=body), "POST", body=body)


def test_curl_speaks_http_1_0(base):
    assert_seen(curl("--http1.0", f"{base}/x"), "GET")


def test_curl_with_credentials_in_the_url_is_not_believed(base):
    # The userinfo form becomes an Authorization that must give way to ours
    assert_seen(curl(f"{base}/x".replace("http://", "http://user:pass@")), "GET")


# Python


def test_requests_gets_and_posts_on_one_session(base):
    with requests.Session() as session:
        for _ in range(3):
            answer = session.get(f"{base}/x", params=[("b", "2"), ("a", "1"), ("a", "0")], timeout=PATIENCE)
            assert answer.status_code == 200
            assert_seen(answer.json(), "GET", "/x?b=2&a=1&a=0", user_agent="python-requests")
            assert_seen(session.post(f"{base}/x", json={"a": "é"}, timeout=PATIENCE).json(), "POST", body=b'{"a": "\\u00e9"}')


def test_requests_uploads_files_and_generators(base):
    seen = requests.post(f"{base}/x", files={"f": ("é.bin", io.BytesIO(BODY))}, data={"a": "b"}, timeout=PATIENCE).json()
    assert_seen(seen, "POST", body=None, content_type="multipart/form-data; boundary=")
    pieces = (BODY[at : at + 7001] for at in range(0, len(BODY), 7001))
    assert_seen(requests.put(f"{base}/x", data=pieces, timeout=PATIENCE).json(), "PUT", body=BODY)


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "OPTIONS"])
def test_requests_uses_other_methods(base, method):
    assert_seen(requests.request(method, f"{base}/x", data=b"body", timeout=PATIENCE).json(), method, body=b"body")


def test_httpx_gets_and_posts(base):
    with httpx.Client(timeout=PATIENCE) as client:
        assert_seen(client.get(f"{base}/x").raise_for_status().json(), "GET", user_agent="python-httpx")
        assert_seen(client.post(f"{base}/x", content=BODY).raise_for_status().json(), "POST", body=BODY)
        pieces = (BODY[at : at + 9001] for at in range(0, len(BODY), 9001))
        assert_seen(client.post(f"{base}/x", content=pieces).raise_for_status().json(), "POST", body=BODY)


def test_httpx_asks_for_many_at_once(base):
    async def all_of_them():
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            return await asyncio.gather(*[client.get(f"{base}/x", params={"n": n}) for n in range(50)])

    for n, answer in enumerate(asyncio.run(all_of_them())):
        assert_seen(answer.raise_for_status().json(), "GET", f"/x?n={n}")


def test_urllib_gets_and_posts(base):
    with urllib.request.urlopen(f"{base}/x", timeout=PATIENCE) as answer:
        assert_seen(json.load(answer), "GET", user_agent="Python-urllib")
    with urllib.request.urlopen(f"{base}/x", data=b"a=b", timeout=PATIENCE) as answer:
        assert_seen(json.load(answer), "POST", body=b"a=b", content_type="application/x-www-form-urlencoded")


def test_http_client_reuses_its_connection(base, sidecar):
    connection = http.client.HTTPConnection(*sidecar.proxy, timeout=PATIENCE)
    path = base.removeprefix(sidecar.url) + "/x"
    connection.connect()
    first = connection.sock
    for body in (b"", b"one", iter([b"two", b"three"])):
        connection.request("POST", path, body=body, encode_chunked=not isinstance(body, bytes), headers={} if isinstance(body, bytes) else {"Transfer-Encoding": "chunked"})
        assert_seen(json.load(connection.getresponse()), "POST", body=body if isinstance(body, bytes) else b"twothree")
        assert connection.sock is first
    connection.close()


# Node


def test_node_fetches(base):
    assert_seen(node("const r = await fetch(url); if (!r.ok) throw r.status; console.log(await r.text())", f"{base}/x"), "GET", sec_fetch_mode="cors")


def test_node_posts_json(base):
    script = "const r = await fetch(url, {method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify({a: 'é'})}); if (!r.ok) throw r.status; console.log(await r.text())"
    assert_seen(node(script, f"{base}/x"), "POST", body='{"a":"é"}'.encode(), content_type="application/json")


def test_node_posts_a_form_and_a_stream(base):
    script = """
      const form = new FormData(); form.set('a', 'b'); form.set('f', new Blob(['x'.repeat(70000)]), 'é.txt');
      const one = await fetch(url, {method: 'POST', body: form});
      const stream = new ReadableStream({start(c) { for (let i = 0; i < 50; i++) c.enqueue(new Uint8Array(1001).fill(i)); c.close(); }});
      const two = await fetch(url, {method: 'PUT', body: stream, duplex: 'half'});
      if (!one.ok || !two.ok) throw [one.status, two.status];
      console.log(JSON.stringify([await one.json(), await two.json()]));"""
    form, stream = node(script, f"{base}/x")
    assert_seen(form, "POST", body=None, content_type="multipart/form-data; boundary=")
    assert_seen(stream, "PUT", body=b"".join(bytes([number]) * 1001 for number in range(50)))


def test_node_fetches_many_at_once(base):
    script = "const all = await Promise.all([...Array(50).keys()].map(n => fetch(url + '?n=' + n))); if (all.some(r => !r.ok)) throw all.map(r => r.status); console.log(JSON.stringify(await Promise.all(all.map(r => r.json()))))"
    for n, seen in enumerate(node(script, f"{base}/x")):
        assert_seen(seen, "GET", f"/x?n={n}")


def test_node_http_gets_and_posts(base):
    script = """
      const ask = (method, body) => new Promise((done, failed) => require('http').request(url, {method}, async r => {
        let text = ''; for await (const piece of r) text += piece;
        r.statusCode === 200 ? done(JSON.parse(text)) : failed(r.statusCode);
      }).on('error', failed).end(body));
      console.log(JSON.stringify([await ask('GET'), await ask('POST', 'body')]));"""
    got, posted = node(script, f"{base}/x")
    assert_seen(got, "GET")
    assert_seen(posted, "POST", body=b"body")


# Other programs and languages, with the headers that they send by themselves


def test_wget_gets_and_posts(base):
    assert_seen(json.loads(command("wget", "-q", "-O", "-", f"{base}/x")), "GET", user_agent="Wget/")
    assert_seen(json.loads(command("wget", "-q", "-O", "-", "--post-data", "a=b", f"{base}/x")), "POST", body=b"a=b")


def test_aiohttp_gets_and_posts(base):
    async def both():
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            async with session.get(f"{base}/x") as answer:
                got = await answer.json()
            async with session.post(f"{base}/x", json={"a": "é"}) as answer:
                return got, await answer.json()

    got, posted = asyncio.run(asyncio.wait_for(both(), PATIENCE))
    assert_seen(got, "GET", user_agent="Python/")
    assert_seen(posted, "POST", body=b'{"a": "\\u00e9"}', content_type="application/json")


def test_urllib3_gets_and_posts_chunks(base):
    pool = urllib3.PoolManager()
    assert_seen(pool.request("GET", f"{base}/x").json(), "GET", user_agent="python-urllib3")
    pieces = (BODY[at : at + 8191] for at in range(0, len(BODY), 8191))
    assert_seen(pool.request("POST", f"{base}/x", body=pieces).json(), "POST", body=BODY)


def test_php_gets_and_posts(base):
    script = """
      echo "[" . file_get_contents($argv[1]) . ",";
      $post = ["http" => ["method" => "POST", "header" => "Content-Type: application/json", "content" => "{}"]];
      echo file_get_contents($argv[1], false, stream_context_create($post)) . "]";"""
    got, posted = json.loads(command("php", "-r", script, f"{base}/x"))
    assert_seen(got, "GET")
    assert_seen(posted, "POST", body=b"{}", content_type="application/json")


def test_ruby_gets_and_posts(base):
    script = """
      url = URI(ARGV[0])
      puts "[#{Net::HTTP.get(url)},#{Net::HTTP.post_form(url, 'a' => 'b c').body}]" """
    got, posted = json.loads(command("ruby", "-r", "net/http", "-e", script, f"{base}/x"))
    assert_seen(got, "GET", user_agent="Ruby")
    assert_seen(posted, "POST", body=b"a=b+c", content_type="application/x-www-form-urlencoded")


def test_perl_lwp_gets_and_posts(base):
    script = """
      my $agent = LWP::UserAgent->new; my ($got, $posted) = ($agent->get($ARGV[0]), $agent->post($ARGV[0], {a => 'b c'}));
      $_->is_success or die $_->status_line for $got, $posted;
      print '[', $got->decoded_content, ',', $posted->decoded_content, ']';"""
    got, posted = json.loads(command("perl", "-MLWP::UserAgent", "-e", script, f"{base}/x"))
    assert_seen(got, "GET", user_agent="libwww-perl/")
    assert_seen(posted, "POST", body=b"a=b+c", content_type="application/x-www-form-urlencoded")


def test_perl_http_tiny_gets_and_posts(base):
    script = """
      my $agent = HTTP::Tiny->new; my ($got, $posted) = ($agent->get($ARGV[0]), $agent->post_form($ARGV[0], {a => 'b'}));
      $_->{success} or die $_->{status} for $got, $posted;
      print "[$got->{content},$posted->{content}]";"""
    got, posted = json.loads(command("perl", "-MHTTP::Tiny", "-e", script, f"{base}/x"))
    assert_seen(got, "GET", user_agent="HTTP-Tiny/")
    assert_seen(posted, "POST", body=b"a=b")


# Clients too large to install for a test: their requests, byte for byte as they sent them once. .NET's were written
# down, not recorded: HttpClient's after its source, .NET Framework's for its habit to expect a 100 before each body.
RECORDED = json.loads(pathlib.Path(__file__).with_name("data").joinpath("client_requests.json").read_text())


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: f"{recorded['client']} {recorded['head'][0].partition(' ')[0]}")
def test_a_recorded_client_passes(base, sidecar, recorded):
    method, path, _ = recorded["head"][0].split(" ")
    route_path = base.removeprefix(sidecar.url)
    lines = [line.replace("127.0.0.1:8080", "%s:%d" % sidecar.proxy) for line in recorded["head"][1:]]
    message = "\r\n".join([f"{method} {route_path}{path} HTTP/1.1", *lines, "", ""]).encode()
    with wire.connect(sidecar.proxy) as sock:
        reader = wire.Reader(sock)
        sock.sendall(message)
        if any(line.lower() == "expect: 100-continue" for line in lines):
            assert reader.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        body = recorded["body"].encode()
        in_chunks = any(line.lower() == "transfer-encoding: chunked" for line in lines)
        sock.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if in_chunks else body)
        answer = wire.read_answer(reader)
    assert answer.status == 200, f"{answer}"
    assert_seen(answer.json(), method, path, body)


# Streams: the gateway sends an event only when the client has told, past the proxy, that it holds the one before.

EVENTS = 5


@contextmanager
def scripted_events(gateway, path: str):
    """Serves an event stream at `path`; yields a function for the client to say that it has read event `n`."""
    read: queue.Queue[int] = queue.Queue()
    ended: queue.Queue[str] = queue.Queue()

    def serve(sock, _seen):
        try:
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(EVENTS):
                data = b"id: %d\ndata: event %d\n\n" % (number, number)
                sock.sendall(b"%x\r\n%s\r\n" % (len(data), data))
                assert read.get(timeout=PATIENCE) == number
            sock.sendall(b"0\r\n\r\n")
            ended.put("done")
        except queue.Empty:
            ended.put(f"event {number} was not read while the stream stood still")
            raise ConnectionAbortedError from None

    gateway.handlers[path] = serve
    try:
        yield read.put
        assert ended.get(timeout=PATIENCE) == "done"
    finally:
        del gateway.handlers[path]


def acknowledge_lines(lines, read) -> int:
    """Takes lines as they come and acknowledges each event; how many there were."""
    count = 0
    for line in lines:
        line = line.decode() if isinstance(line, bytes) else line
        if line.startswith("data: "):
            assert line.strip() == f"data: event {count}"
            read(count)
            count += 1
    return count


def by_requests(url):
    with requests.get(url, stream=True, timeout=PATIENCE) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        yield from answer.iter_lines(chunk_size=None)


def by_httpx(url):
    with httpx.stream("GET", url, timeout=PATIENCE) as answer:
        yield from answer.iter_lines()


def by_urllib(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        yield from answer


def by_program(*arguments):
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield from process.stdout
            assert process.wait(PATIENCE) == 0, process.stderr.read().decode()
        finally:
            process.kill()


def by_curl(url):
    yield from by_program("curl", "--silent", "--show-error", "--fail", "--no-buffer", url)


def by_node(url):
    script = "fetch(process.argv[1]).then(async r => { for await (const piece of r.body) process.stdout.write(piece) })"
    yield from by_program("node", "-e", script, url)


@pytest.mark.parametrize("client", [by_requests, by_httpx, by_urllib, by_curl, by_node], ids=lambda client: client.__name__)
def test_events_arrive_one_by_one(base, sidecar, gateway, client):
    stage = "/prod" if base.endswith("signed") else "/bearer"
    with scripted_events(gateway, f"{stage}/events") as read:
        assert acknowledge_lines(client(f"{base}/events"), read) == EVENTS


# Large transfers through the bearer route: nothing is held.


class Memory:
    """The proxy's resident memory while something passes: how far above where it stood."""

    def __init__(self, sidecar):
        self.sidecar = sidecar
        self.before = sidecar.resident()
        self.most = self.before

    def look(self):
        self.most = max(self.most, self.sidecar.resident())

    @property
    def growth(self) -> int:
        return self.most - self.before


def serve_bytes(sock, seen):
    """Sends as many bytes as the query says, the same MiB over and over, with their length."""
    left = int(seen.target.partition(b"?")[2])
    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n" % left)
    while left:
        piece = memoryview(content(MIB))[: min(left, MIB)]
        sock.sendall(piece)
        left -= len(piece)


def download(sidecar, length: int, memory: Memory | None = None) -> str:
    digest, left = hashlib.sha256(), length
    with wire.connect(sidecar.proxy) as sock:
        sock.sendall(wire.head("GET", b"/bearer/bytes?%d" % length, sidecar.proxy))
        reader = wire.Reader(sock)
        first, fields = wire.split_head(reader.until(b"\r\n\r\n"))
        assert first == b"HTTP/1.1 200 OK"
        assert wire.values(fields, b"content-length") == [b"%d" % length]
        for number, piece in enumerate(reader.pieces(length)):
            digest.update(piece)
            left -= len(piece)
            if memory and number % 64 == 0:
                memory.look()
    assert left == 0
    return digest.hexdigest()


def upload(sidecar, length: int, memory: Memory | None = None, *, in_chunks: bool = False) -> dict:
    framing = b"Transfer-Encoding: chunked" if in_chunks else b"Content-Length: %d" % length
    with wire.connect(sidecar.proxy) as sock:
        sock.sendall(wire.head("POST", b"/bearer/up", sidecar.proxy, framing))
        for at in range(0, length, MIB):
            piece = content(MIB)[: min(MIB, length - at)]
            sock.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if in_chunks else piece)
            if memory:
                memory.look()
        if in_chunks:
            sock.sendall(b"0\r\n\r\n")
        answer = wire.read_answer(wire.Reader(sock))
    assert answer.status == 200, f"{answer}"
    return answer.json()


def expected_hash(length: int) -> str:
    digest = hashlib.sha256()
    for at in range(0, length, MIB):
        digest.update(content(MIB)[: min(MIB, length - at)])
    return digest.hexdigest()


def test_a_large_download_passes_in_constant_memory(sidecar, gateway):
    gateway.handlers["/bearer/bytes"] = serve_bytes
    assert download(sidecar, 16 * MIB) == expected_hash(16 * MIB)  # buffers and allocator settle
    memory = Memory(sidecar)
    assert download(sidecar, TRANSFER, memory) == expected_hash(TRANSFER)
    assert memory.growth < GROWTH, f"{memory.growth} bytes"


@pytest.mark.parametrize("in_chunks", [False, True], ids=["with a length", "chunked"])
def test_a_large_upload_passes_in_constant_memory(sidecar, in_chunks):
    upload(sidecar, 16 * MIB, in_chunks=in_chunks)
    memory = Memory(sidecar)
    seen = upload(sidecar, TRANSFER, memory, in_chunks=in_chunks)
    assert (seen["length"], seen["sha256"]) == (TRANSFER, expected_hash(TRANSFER))
    assert memory.growth < GROWTH, f"{memory.growth} bytes"


def test_the_token_was_fetched_once_for_all_of_this(sidecar, token_endpoint):
    assert token_endpoint.calls == 1


def test_a_gateway_that_goes_silent_mid_body_is_not_taken_for_a_whole_answer(sidecar, gateway):
    def half(sock, _seen):
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        raise ConnectionAbortedError  # ends the connection there

    gateway.handlers["/bearer/half"] = half
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        requests.get(f"{sidecar.url}/bearer/half", timeout=PATIENCE)


def test_an_answer_of_the_gateway_passes_unchanged(base, gateway):
    stage = "/prod" if base.endswith("signed") else "/bearer"

    def teapot(sock, _seen):
        sock.sendall(b"HTTP/1.1 418 Odd\r\nx-odd: \xe9  b\r\nx-amzn-requestid: 1\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 3\r\n\r\n\xff\x00x")

    gateway.handlers[f"{stage}/teapot"] = teapot
    answer = requests.get(f"{base}/teapot", timeout=PATIENCE)
    assert (answer.status_code, answer.content) == (418, b"\xff\x00x")
    assert answer.raw.headers.getlist("set-cookie") == ["a=1", "b=2"]
    assert (answer.headers["x-odd"], answer.headers["x-amzn-requestid"]) == ("\xe9  b", "1")


def test_a_refused_url_of_a_client_is_an_error_it_can_read(sidecar):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{sidecar.url}/nowhere", timeout=PATIENCE)
    assert refused.value.code == 404
    assert json.load(refused.value)["title"]
