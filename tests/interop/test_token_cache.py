"""A fleet that shares its tokens through a real redis-server: one token request where there were many, whatever fails.

Each sidecar is a process of its own. The token endpoint counts; the API notes which token came; the store is asked, broken
and mended by code that is not ours.
"""

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import threading
import time

import pytest
import trustme
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from conftest import BINARY
from doubles import SETTINGS, SOON, Answer, Fault, Flow, Issuer, Upstream, bearer, running
from store import ADMIN, RIGHTS, Cluster, Name, Server, until

SECRET = "client-" + secrets.token_hex(20)
ENVIRONMENT = {"SECRET": SECRET, "PASSWORD": ADMIN}
FLEET = 200


class Counting(Issuer):
    """A token endpoint that hundreds call in one moment."""

    def __init__(self, **more):
        super().__init__(SECRET, **more)
        self._server.socket.listen(512)


class Api(Upstream):
    """Takes the tokens that the issuer gave and nobody revoked; else 401, as API Gateway does."""

    def __init__(self, issuer):
        super().__init__(issuer.judge)
        self.revoked = set()
        self.tokens = []
        self._server.socket.listen(512)

    def reply(self, call):
        token = (call.header("authorization") or "").partition(" ")[2]
        self.tokens.append(token)
        if token in self.revoked or not self.judge(call):
            return Answer.json(401, {"message": "Unauthorized"}, **{"www-authenticate": "Bearer", "x-amzn-errortype": "UnauthorizedException"})
        return Answer.json(200, {})


def shared(url, *lines, timeout="250ms"):
    password = 'password = { env = "PASSWORD" }\n' if not any("password" in line for line in lines) else ""
    return f'[token_cache]\nurl = "{url}"\ntimeout = "{timeout}"\n{password}' + "\n".join(lines) + "\n"


def config(issuer, api, cache):
    return bearer("orders", issuer, '{ env = "SECRET" }', api) + cache


@contextlib.contextmanager
def world(lifetime=3600):
    with Counting(lifetime=lifetime) as issuer, Api(issuer) as api:
        yield issuer, api


@pytest.fixture
def folders(tmp_path_factory):
    return lambda: tmp_path_factory.mktemp("sidecar")


def sidecar(folders, issuer, api, cache, **more):
    known = {SECRET, ADMIN} | set(more.pop("known_secrets", ()))
    return running(folders(), config(issuer, api, cache), ENVIRONMENT | more.pop("environment", {}), known, **more)


def admin(process, path):
    connection = http.client.HTTPConnection(*process.admin, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def metrics(process):
    """Samples by name and labels."""
    found = {}
    for family in text_string_to_metric_families(admin(process, "/metrics")):
        for sample in family.samples:
            found[(sample.name.removeprefix("countersign_"), *sample.labels.values())] = sample.value
    return found


def way(process, name):
    return metrics(process)[("token_cache_tokens_total", name)]


def is_up(process):
    return metrics(process)[("token_cache_up",)] == 1


def asked(issuer):
    return sum(call.target == "/oauth2/token" for call in issuer.calls)


def test_a_fleet_has_one_token_and_the_store_sees_noise(folders, tmp_path):
    """Over TLS, as a user of the store that may do no more than is documented."""
    ca, password = trustme.CA(), "cache-" + secrets.token_hex(16)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    user = f"user sidecars on >{password} ~orders-fleet:* {RIGHTS}"
    with world() as (issuer, api), Server(tmp_path / "redis", user, ca=ca) as store, contextlib.ExitStack() as fleet:
        cache = shared(store.url, f'ca_file = "{tmp_path}/ca.pem"', 'username = "sidecars"', 'prefix = "orders-fleet"',
                       'password = { env = "CACHE_PASSWORD" }', timeout="2s")
        with store.overheard() as heard:
            for _ in range(6):
                process = fleet.enter_context(sidecar(
                    folders, issuer, api, cache, environment={"CACHE_PASSWORD": password}, known_secrets={password}))
                assert process.get("/orders")[0] == 200
            until(lambda: any("SET" in line for line in heard), "a write")
        assert asked(issuer) == 1 and len(set(api.tokens)) == 1
        assert way(process, "found") == 1 and is_up(process)
        assert f"token cache: in use ({store.url})" in process.readiness()[1]
        assert json.loads(admin(process, "/api/status"))["token_cache"]["state"] == "in-use"
        keys = store.keys()
        assert len(keys) == 1 and re.fullmatch(r"orders-fleet:\{[0-9a-f]{64}\}:token", keys[0]), keys
        assert 3_500_000 < store("PTTL", keys[0]) <= 3_600_000
        told = store.everything() + "\n".join(heard).encode()
        assert b"orders-fleet" in told and len(heard) > 6
        (token,) = issuer.tokens
        needles = [token, SECRET, issuer.token_url, "client_id", "access_token", f"{issuer.port}"]
        hits = [needle for needle in needles if needle.encode() in told.replace(b"127.0.0.1:", b"")]
        # The client id is "orders" here, and so is a part of the prefix: looked for as a word of its own.
        hits += re.findall(rb"(?<![\w-])orders(?![\w-])", told)
        assert hits == []


@pytest.mark.timeout(400)
@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "each-its-own"])
def test_200_processes_that_start_together(folders, tmp_path, is_shared):
    """Two token requests in a lifetime at most; without the cache, one for each process."""
    lifetime = 100
    with world(lifetime) as (issuer, api), Server(tmp_path / "redis") as store, contextlib.ExitStack() as stack:
        # 200 processes share two cores here, and so does the store: its answers wait for their turn.
        cache = shared(store.url, timeout="10s") if is_shared else ""
        fleet = Fleet(folders(), SETTINGS + config(issuer, api, cache), stack)
        began = time.monotonic()
        fleet.start()
        assert fleet.ask() == {200}
        first = asked(issuer)
        took = time.monotonic() - began
        print(f"{FLEET} processes, {'shared' if is_shared else 'each its own'}: {first} token requests, all answered after {took:.0f} s")
        if not is_shared:
            assert first >= FLEET
            return
        assert first <= 2 * (1 + took // lifetime)
        # Until each has had its next one.
        old = set(issuer.tokens)
        until(lambda: asked(issuer) > first, "a refresh", lifetime)

        def all_have_a_new_one():
            api.tokens.clear()
            assert fleet.ask() == {200}
            return not old & set(api.tokens)

        until(all_have_a_new_one, "a new token for all", lifetime)
        lifetimes = 1 + (time.monotonic() - began) // lifetime
        print(f"after {time.monotonic() - began:.0f} s: {asked(issuer)} token requests in {lifetimes:.0f} lifetimes")
        assert asked(issuer) <= 2 * lifetimes
        assert len(store.entries()) == 1


class Fleet:
    """Processes that start in one moment, and nothing more."""

    def __init__(self, folder, text, stack):
        self._folder = folder
        (folder / "countersign.toml").write_text(text)
        self._stack = stack
        self._logs = []
        self.addresses = []

    def start(self):
        environment = {"PATH": os.environ["PATH"], "AWS_EC2_METADATA_DISABLED": "true", "TOKIO_WORKER_THREADS": "1"} | ENVIRONMENT
        processes = []
        self._stack.callback(self._end, processes)
        for number in range(FLEET):
            log = self._folder / f"{number}.log"
            with open(log, "wb") as output:
                processes.append(subprocess.Popen(
                    [str(BINARY), "run", "--config", str(self._folder / "countersign.toml")], env=environment,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output))
            self._logs.append(log)
        until(lambda: all(self._address(log) for log in self._logs), "listening processes", 120)
        self.addresses = [self._address(log) for log in self._logs]

    @staticmethod
    def _address(log):
        for line in log.read_text().splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("listener") == "proxy" or entry.get("fields", {}).get("listener") == "proxy":
                return (entry.get("address") or entry["fields"]["address"]).rsplit(":", 1)
        return None

    def ask(self):
        """The statuses of a request through each; one that is not there yet is asked again."""
        found = set()
        for host, port in self.addresses:
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            try:
                connection.request("GET", "/orders")
                answer = connection.getresponse()
                answer.read()
                found.add(answer.status)
            finally:
                connection.close()
        return found

    def _end(self, processes):
        for process in processes:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(60) for process in processes]
        text = "".join(log.read_text() for log in self._logs)
        assert codes == [0] * FLEET and SECRET not in text and "panicked at" not in text


def password_lost(store):
    store("ACL", "SETUSER", "sidecars", "resetpass", ">another")


def password_found(store):
    store("ACL", "SETUSER", "sidecars", "resetpass", ">rights-and-all")


def sleeping(store):
    """For 8 s nobody is answered."""
    threading.Thread(target=lambda: store("DEBUG", "SLEEP", "8"), daemon=True).start()


FAULTS = {
    "killed": ("cache-unreachable", lambda store: store.kill(), lambda store: store.start()),
    "slow": ("cache-slow", sleeping, lambda store: None),
    "wrong password": ("cache-login", password_lost, password_found),
    "no rights": ("cache-login", lambda store: store("ACL", "SETUSER", "sidecars", "-eval"),
                  lambda store: store("ACL", "SETUSER", "sidecars", "+eval")),
    "read-only": ("cache-read-only", lambda store: store("REPLICAOF", "127.0.0.1", "1"),
                  lambda store: store("REPLICAOF", "NO", "ONE")),
    "full": ("cache-full", lambda store: store("CONFIG", "SET", "maxmemory", "1"),
             lambda store: store("CONFIG", "SET", "maxmemory", "0")),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_store_that_fails_costs_nothing_but_its_use(folders, tmp_path, name):
    cause, break_it, mend_it = FAULTS[name]
    user = f"user sidecars on >rights-and-all ~countersign:* {RIGHTS}"
    with world() as (issuer, api), Server(tmp_path / "redis", user) as store:
        cache = shared(store.url, 'username = "sidecars"', 'password = { value = "rights-and-all" }')
        break_it(store)
        began = time.monotonic()
        with sidecar(folders, issuer, api, cache) as process:
            assert process.get("/orders")[0] == 200
            took = time.monotonic() - began
            process.until_said("the token cache fails", f'"cause":"{cause}"')
            code, ready = process.readiness()
            found = metrics(process)
            assert code == 200 and "token cache: failing" in ready, ready
            assert found[("token_cache_up",)] == 0 and found[("token_cache_tokens_total", "alone")] == 1, found
            assert found[("token_cache_errors_total", cause)] >= 1
            status = json.loads(admin(process, "/api/status"))["token_cache"]
            assert status["state"] == "failing" and cause in status["hint"]
            assert took < 7, "it did not wait for a store that sleeps for 8 s"
            mend_it(store)
            process.until(lambda: is_up(process), "the store is back", 45)
            process.until_said("the token cache is back")
            assert "token cache: in use" in process.readiness()[1]
        assert process.output.count("the token cache fails") == 1, "said once"
        # And is of use again.
        before = asked(issuer)
        for expected in ["fetched", "found"]:
            with sidecar(folders, issuer, api, cache) as process:
                assert process.get("/orders")[0] == 200 and way(process, expected) == 1
        assert asked(issuer) == before + 1


def test_garbage_is_written_over(folders, tmp_path):
    with world() as (issuer, api), Server(tmp_path / "redis") as store:
        cache = shared(store.url)
        with sidecar(folders, issuer, api, cache):
            until(store.entries, "an entry")
        (key, good), = store.entries().items()
        changed = bytes([*good[:-1], good[-1] ^ 1])
        for number, garbage in enumerate([b"", b"x", b"\x01" * 70_000, changed, good[:40], b"\x02" + good[1:]]):
            store("SET", key, garbage, "PX", "100000")
            before = asked(issuer)
            with sidecar(folders, issuer, api, cache) as process:
                assert process.get("/orders")[0] == 200
                assert asked(issuer) == before + 1, number
                until(lambda: len(store.entries().get(key) or b"") == len(good), "a good entry")
                process.until(lambda: "token cache: in use (" in process.readiness()[1], "a mended store")
                if garbage:
                    process.until_said('"cause":"cache-garbage"')
        store("DEL", key)
        store("RPUSH", key, "not even a string")
        with sidecar(folders, issuer, api, cache) as process:
            assert process.get("/orders")[0] == 200
            until(lambda: store.entries().get(key), "a good entry")
        before = asked(issuer)
        with sidecar(folders, issuer, api, cache) as process:
            assert process.get("/orders")[0] == 200
        assert asked(issuer) == before


def test_an_outage_of_the_store_fails_no_request(folders, tmp_path):
    """As long as several lives of a token: each fetches its own, and they share again when it is back."""
    with world(lifetime=12) as (issuer, api), Server(tmp_path / "redis") as store, contextlib.ExitStack() as stack:
        fleet = [stack.enter_context(sidecar(folders, issuer, api, shared(store.url))) for _ in range(3)]
        flows = [stack.enter_context(Flow(process, "/orders", 1)) for process in fleet]
        assert asked(issuer) == 1
        store.kill()
        for process in fleet:
            process.until(lambda: way(process, "alone") >= 2, "two tokens of its own", 40)
            assert not is_up(process)
        store.start()
        for process in fleet:
            process.until(lambda: is_up(process), "the store is back", 45)
        # Restarted, it has forgotten everything; after one more life at most all have the same token again.
        def share():
            api.tokens.clear()
            assert all(process.get("/orders")[0] == 200 for process in fleet)
            return len(set(api.tokens[-3:])) == 1

        until(share, "one token for all", 40)
        assert sum(way(process, "found") + way(process, "waited") for process in fleet) >= 3
    for flow in flows:
        assert set(flow.answers) == {200}, flow.answers


def test_an_outage_of_the_issuer_fails_no_request_while_the_token_lives(folders, tmp_path):
    with world(lifetime=40) as (issuer, api), Server(tmp_path / "redis") as store, contextlib.ExitStack() as stack:
        fleet = [stack.enter_context(sidecar(folders, issuer, api, shared(store.url))) for _ in range(3)]
        flows = [stack.enter_context(Flow(process, "/orders", 1)) for process in fleet]
        (token,) = issuer.tokens
        end = issuer.tokens[token][1]
        issuer.fault = Fault.FAILING
        # From 65 % of its life, after 26 s, it is asked in vain; 4 s before its end the outage is over.
        until(lambda: time.monotonic() > end - 4, "most of its life", 45)
        calls = asked(issuer)
        print(f"{calls - 1} calls of 3 sidecars in 10 s of outage")
        assert 2 <= calls <= 14, "one of them asks, not all"
        assert any(process.get("/orders")[0] == 200 for process in fleet)
        issuer.fault = None
        until(lambda: len(issuer.tokens) > 1, "another token")

        def all_have_it():
            api.tokens.clear()
            assert all(process.get("/orders")[0] == 200 for process in fleet)
            return token not in api.tokens

        until(all_have_it, "another token for all")
    for flow in flows:
        assert set(flow.answers) == {200}, flow.answers


def test_a_refused_token_is_replaced_once_for_all(folders, tmp_path):
    with world() as (issuer, api), Server(tmp_path / "redis") as store, contextlib.ExitStack() as stack:
        fleet = [stack.enter_context(sidecar(folders, issuer, api, shared(store.url))) for _ in range(5)]
        assert {process.get("/orders")[0] for process in fleet} == {200} and asked(issuer) == 1
        # Refusals count once a token is 10 s old: another would fare no better before.
        (token,) = issuer.tokens
        given = issuer.tokens[token][1] - 3600
        until(lambda: time.monotonic() > given + 10.5, "10 s")
        api.revoked.add(token)
        answers = []
        threads = [threading.Thread(target=lambda process=process: answers.append(process.get("/orders")[0])) for process in fleet]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
        assert answers == [200] * 5, "each was sent once more with the new token"
        assert asked(issuer) == 2
        assert sum(metrics(process)[("token_cache_invalidations_total",)] for process in fleet) == 1


def test_a_replica_is_promoted(folders, tmp_path):
    """Under the name of a primary that moves, as those of ElastiCache do."""
    with contextlib.ExitStack() as stack:
        issuer, api = stack.enter_context(world())
        primary = stack.enter_context(Server(tmp_path / "primary"))
        replica = stack.enter_context(Server(tmp_path / "replica", f"replicaof 127.0.0.1 {primary.port}"))
        name = stack.enter_context(Name(primary))
        cache = shared(name.url)
        process = stack.enter_context(sidecar(folders, issuer, api, cache))
        until(lambda: replica.entries() == primary.entries() and primary.entries(), "a copy")
        primary.kill()
        # For a moment the name leads to one that is no primary yet.
        name.lead_to(replica)
        with sidecar(folders, issuer, api, cache) as early:
            assert early.get("/orders")[0] == 200, "an entry can be read there"
            assert asked(issuer) == 1
        (key,) = replica.entries()
        other = bearer("other", issuer, '{ env = "SECRET" }', api)
        with running(folders(), config(issuer, api, cache) + other, ENVIRONMENT, {SECRET, ADMIN}) as early:
            assert early.get("/other")[0] == 200
            early.until_said('"cause":"cache-read-only"')
            replica("REPLICAOF", "NO", "ONE")
            early.until(lambda: is_up(early), "the new primary", 45)
        with sidecar(folders, issuer, api, cache) as late:
            assert late.get("/orders")[0] == 200
            assert way(late, "found") == 1
        assert process.get("/orders")[0] == 200 and key in replica.entries()


def test_a_cluster_of_three_nodes(folders, tmp_path):
    with world() as (issuer, api), Cluster(tmp_path / "cluster") as cluster, contextlib.ExitStack() as stack:
        names = [f"client{number}" for number in range(8)]
        text = "".join(bearer(name, issuer, '{ env = "SECRET" }', api) for name in names)
        cache = shared(cluster.nodes[0].url, "cluster = true")
        fleet = [stack.enter_context(running(folders(), text + cache, ENVIRONMENT, {SECRET, ADMIN})) for _ in range(2)]
        for process in fleet:
            assert {process.get(f"/{name}")[0] for name in names} == {200}
            assert is_up(process), process.readiness()
        assert asked(issuer) == len(names)
        kept = [len(node.entries()) for node in cluster.nodes]
        assert sum(kept) == len(names) and sum(count > 0 for count in kept) >= 2, kept
        # Without being told, it does not follow.
        with running(folders(), text + shared(cluster.nodes[0].url), ENVIRONMENT, {SECRET, ADMIN}) as process:
            assert {process.get(f"/{name}")[0] for name in names} == {200}
            process.until_said('"cause":"cache-moved"')
        # Of a node that is gone the slots are, too: nobody takes its place here.
        cluster.nodes[2].kill()
        until(lambda: b"cluster_state:fail" in cluster.nodes[0]("CLUSTER", "INFO"), "a cluster that noticed")
        with running(folders(), text + cache, ENVIRONMENT, {SECRET, ADMIN}) as process:
            assert {process.get(f"/{name}")[0] for name in names} == {200}
            assert not is_up(process)
            cluster.nodes[2].start()
            process.until(lambda: is_up(process), "a whole cluster", 45)


def test_a_reload_changes_the_store_and_keeps_the_token(folders, tmp_path):
    with world() as (issuer, api), Server(tmp_path / "redis") as store:
        folder = folders()
        with running(folder, config(issuer, api, ""), ENVIRONMENT, {SECRET, ADMIN}) as process:
            assert process.get("/orders")[0] == 200 and "token cache" not in process.readiness()[1]
            path = folder / "countersign.toml"
            # Lives of an hour are not refreshed here, so a refusal stands for it.
            for prefix, tokens in [("one", 2), ("two", 3)]:
                path.write_text(SETTINGS + config(issuer, api, shared(store.url, f'prefix = "{prefix}"', timeout="5s")))
                process.process.send_signal(signal.SIGHUP)
                process.until(lambda: "token cache: in use" in process.readiness()[1] and process.readiness()[1].count("generation") == 1
                              and f"generation {tokens}" in process.readiness()[1], "the new config")
                assert process.get("/orders")[0] == 200 and asked(issuer) == tokens - 1, "what it had it kept"
                newest = max(issuer.tokens, key=lambda token: issuer.tokens[token][1])
                given = issuer.tokens[newest][1] - 3600
                until(lambda: time.monotonic() > given + 10.5, "10 s")
                api.revoked.add(newest)
                assert process.get("/orders")[0] == 200 and asked(issuer) == tokens
                until(lambda: any(key.startswith(f"{prefix}:") for key in store.entries()), "an entry in the new place")
            path.write_text(SETTINGS + config(issuer, api, ""))
            process.process.send_signal(signal.SIGHUP)
            process.until(lambda: "token cache" not in process.readiness()[1], "no store")
            assert process.get("/orders")[0] == 200 and asked(issuer) == 3


def test_check_and_explain_say_where_tokens_are_shared_and_whether_that_works(folders, tmp_path):
    with world() as (issuer, api), Server(tmp_path / "redis") as store:

        def check(cache, *arguments, command="check", **environment):
            folder = folders()
            (folder / "countersign.toml").write_text(config(issuer, api, cache))
            ended = subprocess.run(
                [str(BINARY), command, "--config", str(folder / "countersign.toml"), *arguments], capture_output=True, text=True,
                env={"PATH": os.environ["PATH"], **ENVIRONMENT, **environment}, timeout=60)
            assert SECRET not in ended.stdout + ended.stderr and ADMIN not in ended.stdout + ended.stderr
            return ended.returncode, ended.stdout + ended.stderr

        code, text = check(shared(store.url))
        assert code == 0 and f"tokens are shared through {store.url}" in text, text
        code, text = check(shared(store.url), "--online")
        assert code == 0 and "token cache: can be used" in text, text
        code, text = check(shared(store.url), "GET", "http://localhost:8080/orders", command="explain")
        assert code == 0 and f"shares     its token through {store.url}" in text, text
        code, text = check("", "GET", "http://localhost:8080/orders", command="explain")
        assert code == 0 and "shares" not in text, text
        code, text = check(shared(store.url), "--online", PASSWORD="wrong")
        assert code == 1 and "cache-login: " in text and "WRONGPASS" in text, text
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        code, text = check(shared(f"redis://127.0.0.1:{port}"), "--online")
        assert code == 1 and "cache-unreachable: " in text, text
        code, text = check(shared("redis://cache.example:6379"))
        assert code == 78 and "redis:// is for loopback only" in text, text
