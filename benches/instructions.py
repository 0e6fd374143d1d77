"""How many instructions and allocations a request takes: the figures that no busy machine can blur.

    make instructions

Runs the binary under valgrind twice for each kind of request, with some requests and with three times as many: the
difference is what requests took, without start and end. Fails when one takes more than its bound; whoever makes requests
dearer on purpose raises the bound in the same change. Kernel work is not in it: see bench.py for that.
"""

import argparse
import pathlib
import re
import signal
import socket
import subprocess
import sys

import rig

REQUESTS = 400
CONNECTIONS = 4
# Of the release profile, which CI builds anyway; the shipped one takes a third less. With 5 % to spare: other versions
# of valgrind, libc and the compiler count otherwise.
INSTRUCTIONS = {"s": 101_000, "b": 76_500, "n": 71_500}
ALLOCATIONS = {"s": 30, "b": 22, "n": 21}
ROUTES = {"s": "SigV4", "b": "bearer", "n": "no auth"}


class Under(rig.Rig):
    """The same rig, with countersign in valgrind's hands."""

    def run(self, tool, letter, requests):
        """Events that `tool` counted with so many requests."""
        out = self.folder / "valgrind.txt"
        real, self.binary = self.binary, self.folder / "valgrind.sh"
        options = {"callgrind": "--callgrind-out-file=/dev/null", "dhat": "--dhat-out-file=/dev/null"}[tool]
        self.binary.write_text(f'#!/bin/sh\nexec valgrind --tool={tool} {options} --log-file={out} {real} "$@"\n')
        self.binary.chmod(0o755)
        process, url = self.countersign(f"{tool}-{letter}-{requests}")
        self.binary = real
        ask(url, letter, requests)
        process.process.send_signal(signal.SIGINT)
        process.process.wait(60)
        self.stop(process)
        counted = {"callgrind": r"Collected : (\d+)", "dhat": r"Total:.* in ([\d,]+) blocks"}[tool]
        return int(re.search(counted, out.read_text())[1].replace(",", ""))

    def each(self, tool, letter):
        """Events for one request."""
        return (self.run(tool, letter, 3 * REQUESTS) - self.run(tool, letter, REQUESTS)) / (2 * REQUESTS)


def ask(url, letter, requests):
    port = int(url.rsplit(":", 1)[1])
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    request = f"GET /{letter}/orders/42 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: guard\r\nAccept: */*\r\n\r\n".encode()
    for _ in range(requests // CONNECTIONS):
        for connection in connections:
            connection.sendall(request)
        for connection in connections:
            answer = b""
            while not answer.endswith(rig.SMALL.encode()):
                piece = connection.recv(65536)
                if not piece or not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
                    sys.exit(f"not answered: {answer + piece}")
                answer += piece


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("binary", type=pathlib.Path, help="the countersign to count in")
    binary = options.parse_args().binary.resolve()
    too_many = []
    with Under.running(binary) as world:
        for tool, bounds, unit in (("callgrind", INSTRUCTIONS, "instructions"), ("dhat", ALLOCATIONS, "allocations")):
            for letter, bound in bounds.items():
                count = world.each(tool, letter)
                line = f"{ROUTES[letter]}: {count:,.1f} {unit} for a request, {bound:,} at most"
                print(line, flush=True)
                if count > bound:
                    too_many.append(line)
    if too_many:
        sys.exit("too many:\n" + "\n".join(too_many))


if __name__ == "__main__":
    main()
