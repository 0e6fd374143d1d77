"""What a profile of countersign is taken from: all that requests usually do, once each for a second or two.

    make profile

runs it with a binary that counts how often each branch is taken, and keeps the counts in countersign.profdata.xz, by
which the compiler lays out the shipped one.
"""

import pathlib
import sys

import load
import rig

SECONDS = 2


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    with rig.Rig.running(binary) as world:
        post = world.post("kib", 1024)
        for name, upstream in (("http1", world.http1), ("http2", world.http2)):
            process, url = world.countersign(name, upstream=upstream)
            for letter in "sbn":
                load.wrk(f"{url}/{letter}/orders/42?from=1&to=2", 32, SECONDS)
                load.wrk(f"{url}/{letter}/orders/42", 32, SECONDS)
                load.wrk(f"{url}/{letter}/orders/42", 32, SECONDS, post)
                load.wrk(f"{url}/{letter}/ten", 2, 1)
                load.result(load.begin("uploads", f"{url}/{letter}", 8, 8))
            load.result(load.begin("events", f"{url}/n/events", 50, 1))
            load.result(load.begin("echo", f"{url}/n/echo", 8, 1))
            world.stop(process)


if __name__ == "__main__":
    main()
