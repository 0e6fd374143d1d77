"""Load on a proxy, and what it answers: wrk for throughput; for the rest, clients of our own.

    load.py events|echo|uploads|idle|rate URL NUMBER SECONDS

run in a process of its own, so that the clients' work is not the measurer's. Prints one object in JSON.
"""

import asyncio
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import time
from urllib.parse import urlsplit


def micros(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[unit]


def wrk(url, connections, seconds, script=None):
    """Requests, the time they took, and their latencies in microseconds, as wrk saw them."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
    command += ["-s", str(script)] if script else []
    said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    errors = re.search(r"Socket errors: (.*)", said)
    if bad or (errors and "connect 0, read 0, write 0" not in errors[1]):
        raise SystemExit(f"{url} went wrong:\n{said}")
    requests, took = re.search(r"(\d+) requests in ([\d.]+\w+)", said).groups()
    percentile = lambda which: micros(re.search(rf"\s{which}%\s+(\S+)", said)[1])
    return {"requests": int(requests), "seconds": micros(took) / 1e6, "p50": percentile(50), "p99": percentile(99)}


def quantile(sorted_values, which):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * which))] if sorted_values else None


class Connection:
    def __init__(self, url):
        self.parts = urlsplit(url)

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(self.parts.hostname, self.parts.port)

    async def ask(self, method="GET", fields="", body=b""):
        """Sends a request; returns the answer's head."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {self.parts.path} HTTP/1.1\r\nHost: {self.parts.netloc}\r\n{length}{fields}\r\n"
        self.writer.write(head.encode() + body)
        await self.writer.drain()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        return int(head.split(" ", 2)[1]), head.lower()

    async def whole(self, **request):
        """Sends a request and reads its whole answer; returns its status."""
        status, head = await self.ask(**request)
        length = re.search(r"content-length: (\d+)", head)
        if length:
            await self.reader.readexactly(int(length[1]))
        return status


async def counted(seen, settle, seconds):
    """How much is seen in so many seconds, once all have settled and whoever measures has been told."""
    await asyncio.sleep(settle)
    before, begun = seen[0], time.monotonic()
    print("ready", flush=True)
    await asyncio.sleep(seconds)
    return {"count": seen[0] - before, "seconds": time.monotonic() - begun}


async def events(url, number, seconds):
    """So many event streams at the same time; how many events came."""
    seen = [0]

    async def one():
        connection = Connection(url)
        await connection.open()
        status, _ = await connection.ask()
        assert status == 200, status
        while True:
            piece = await connection.reader.read(65536)
            if not piece:
                raise SystemExit("a stream ended")
            seen[0] += piece.count(b"data: ")

    tasks = [asyncio.create_task(one()) for _ in range(number)]
    result = await counted(seen, 2, seconds)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    return result


async def echo(url, number, seconds):
    """So many WebSockets on which one message goes back and forth."""
    seen, mask = [0], b"\1\2\3\4"
    text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(b"hello" * 12))
    frame = bytes([0x81, 0x80 | len(text)]) + mask + text
    deadline = time.monotonic() + seconds + 1

    async def one():
        connection = Connection(url)
        await connection.open()
        key = base64.b64encode(os.urandom(16)).decode()
        status, _ = await connection.ask(fields="Connection: Upgrade\r\nUpgrade: websocket\r\n"
                                         f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n")
        assert status == 101, status
        while time.monotonic() < deadline:
            connection.writer.write(frame)
            await connection.reader.readexactly(2 + len(text))
            seen[0] += 1

    tasks = [asyncio.create_task(one()) for _ in range(number)]
    result = await counted(seen, 1, seconds)
    await asyncio.gather(*tasks)
    return result


async def uploads(url, number, mebibytes):
    """So many uploads of so many MiB at the same time, once each."""
    body, begun, statuses = os.urandom(1024 * 1024) * mebibytes, time.monotonic(), []

    async def one():
        connection = Connection(url)
        await connection.open()
        statuses.append(await connection.whole(method="POST", body=body))
        connection.writer.close()

    await asyncio.gather(*(one() for _ in range(number)))
    return {"count": statuses.count(200), "refused": len(statuses) - statuses.count(200),
            "seconds": time.monotonic() - begun}


async def idle(url, number, seconds):
    """So many connections that have each made one request and stay."""
    connections = [Connection(url) for _ in range(number)]
    for at in range(0, number, 100):
        some = connections[at : at + 100]
        await asyncio.gather(*(connection.open() for connection in some))
        statuses = await asyncio.gather(*(connection.whole() for connection in some))
        assert set(statuses) == {200}, statuses
    print("ready", flush=True)
    await asyncio.sleep(seconds)
    return {"count": number}


async def rate(url, per_second, seconds):
    """Requests at fixed times, whatever becomes of those before them; each one's time counts from when it was due, so that
    a proxy that stands still is charged for all that it kept waiting."""
    loop, times, free = asyncio.get_running_loop(), [], []

    async def one(due):
        connection = free.pop() if free else None
        if connection is None:
            connection = Connection(url)
            await connection.open()
        assert await connection.whole() == 200
        times.append((loop.time() - due) * 1e6)
        free.append(connection)

    # Connections and their upstream's are made before the clock runs.
    warm = [Connection(url) for _ in range(16)]
    await asyncio.gather(*(connection.open() for connection in warm))
    await asyncio.gather(*(connection.whole() for connection in warm))
    free.extend(warm)
    begun, tasks = loop.time(), []
    for number in range(per_second * seconds):
        due = begun + number / per_second
        if due > loop.time():
            await asyncio.sleep(due - loop.time())
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    times.sort()
    return {"count": len(times), "p50": quantile(times, 0.5), "p99": quantile(times, 0.99),
            "p999": quantile(times, 0.999), "mean": statistics.mean(times)}


KINDS = {"events": events, "echo": echo, "uploads": uploads, "idle": idle, "rate": rate}


def begin(kind, url, number, seconds):
    """Starts one of these; it prints `ready` when it has begun to count, where that is not at once."""
    return subprocess.Popen([sys.executable, __file__, kind, url, str(number), str(seconds)],
                            stdout=subprocess.PIPE, text=True)


def result(process):
    said = process.communicate()[0].strip().splitlines()
    if process.returncode or not said:
        raise SystemExit(f"{process.args} failed")
    return json.loads(said[-1])


if __name__ == "__main__":
    kind, url, number, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(KINDS[kind](url, int(number), int(seconds)))))
