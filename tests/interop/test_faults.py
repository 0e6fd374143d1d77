"""Token endpoints and STS that answer wrongly, late or not at all (docs/rules.md 3.6), on the wire.

What takes minutes is tested on paused time in src/auth/refreshing/tests.rs; here is what only a socket shows.
"""

import gzip
import time

import pytest

from doubles import Fault, Flow, Issuer, Sts, Together, Upstream, bearer, key_id, route, running
from emulators import REGION

together = Together()
GOOD, MEGABYTES = "good-secret-0123456789", 10 * 1024 * 1024


class OddIssuer(Issuer):
    """Answers with `odd` while it is set; a function of the connection, which writes what it likes."""

    odd = None

    def answer(self, call, connection):
        if self.odd:
            self.odd(connection, self._ended)
            connection.close()
            raise ConnectionResetError
        return super().answer(call, connection)


def token_answer(padding=b""):
    return b'{"access_token":"stolen-token","token_type":"Bearer","expires_in":3600,"x":"' + padding + b'"}'


def large(connection, _ended):
    body = token_answer(b"x" * MEGABYTES)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def endless(connection, ended):
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while not ended.is_set():
        connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")


def bomb(connection, _ended):
    """10 MiB in 10 KiB: nothing here may unpack it."""
    body = gzip.compress(token_answer(b"x" * MEGABYTES))
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def drip(connection, ended):
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for byte in token_answer(b"x" * 1000):
        if ended.wait(0.2):
            return
        connection.sendall(bytes([byte]))


def heads_without_end(connection, ended):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not ended.is_set():
        connection.sendall(b"x-filler: " + b"x" * 8000 + b"\r\n")


def smuggled(connection, _ended):
    body = b'{"access_token":"a\\r\\nx-admin: 1","token_type":"Bearer","expires_in":3600}'
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def redirected(connection, _ended):
    connection.sendall(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:9/steal\r\ncontent-length: 0\r\n\r\n")


def an_odd_token_answer(folder, odd):
    """Cold, so that a 503 is all there can be; within 5 s, in little memory, and other routes do not notice."""
    odd = globals()[odd]
    with OddIssuer(GOOD) as issuer, Issuer(GOOD) as fine, Upstream() as upstream:
        issuer.odd = odd
        upstream.judge = lambda call: issuer.judge(call) or fine.judge(call)
        config = bearer("odd", issuer, '{ env = "SECRET" }', upstream) + bearer("fine", fine, '{ env = "SECRET" }', upstream)
        with running(folder, config, {"SECRET": GOOD}, [GOOD, "stolen-token"], ready=False) as sidecar, \
                Flow(sidecar, "/fine", callers=1) as flow:
            begun = time.monotonic()
            status, headers = sidecar.get("/odd")
            assert (status, headers["x-countersign-error"]) == (503, "credential-unavailable")
            assert time.monotonic() - begun < 6, "a request waits 5 s for a credential"
            assert sidecar.resident() < 100 * 1024 * 1024
            issuer.until_calls(2)
            issuer.odd = None
            sidecar.until_answer("/odd", 200, within=11)
            sidecar.secrets |= {*issuer.tokens, *fine.tokens}
        assert list(flow.answers) == [200], flow.answers


for odd in (large, endless, bomb, drip, heads_without_end, smuggled, redirected):
    together.add(an_odd_token_answer, odd.__name__)


@together.add
def a_throttled_client_comes_back_when_it_was_told_to(folder):
    """429 with Retry-After 30, whatever number of requests come meanwhile."""
    with Issuer(GOOD) as issuer, Upstream() as upstream:
        issuer.fault = Fault.THROTTLED
        with running(folder, bearer("orders", issuer, '{ env = "SECRET" }', upstream), {"SECRET": GOOD}, [GOOD],
                     ready=False) as sidecar:
            sidecar.until_answer("/orders", 503)
            sidecar.until_said("is throttling")
            with Flow(sidecar, "/orders") as flow:
                sidecar.until(lambda: sum(flow.answers.values()) > 200, "200 answers")
            assert list(flow.answers) == [503]
            assert 20 <= int(sidecar.get("/orders")[1]["retry-after"]) <= 30
        assert len(issuer.calls) == 1


@together.add
def a_refused_client_is_not_asked_about_again_by_requests(folder):
    """Invalid_client, with a secret that cannot change."""
    with Issuer("another-secret") as issuer, Upstream() as upstream:
        with running(folder, bearer("orders", issuer, '{ env = "SECRET" }', upstream), {"SECRET": GOOD}, [GOOD],
                     ready=False) as sidecar:
            sidecar.until_answer("/orders", 503)
            sidecar.until_said("refused: invalid_client")
            with Flow(sidecar, "/orders") as flow:
                sidecar.until(lambda: sum(flow.answers.values()) > 200, "200 answers")
            assert 50 <= int(sidecar.get("/orders")[1]["retry-after"]) <= 60
        assert len(issuer.calls) == 1


def role_auth(name, role, sts, upstream, base):
    return f"""
[auth.{name}]
kind = "sigv4"
region = "{REGION}"
credentials = {base}
assume_role = {{ arn = "{arn(role)}", endpoint = "{sts.url}" }}
{route(name, upstream)}"""


def arn(role):
    return f"arn:aws:iam::123456789012:role/{role}"


@together.add
def each_role_fails_for_itself(folder):
    """One denied, one throttled, one whose session ends before it begins, one that is well; three at once and more."""
    base = '{ static = { access_key_id = { value = "AKIABASE" }, secret_access_key = { env = "SECRET" } } }'
    with Sts() as sts, Upstream(key_id) as upstream:
        sts.refuse = {arn("denied"): (403, "AccessDenied"), arn("throttled"): (400, "Throttling")}
        sts.ended = {arn("ended")}
        names = ("denied", "throttled", "ended", "fine")
        config = "".join(role_auth(name, name, sts, upstream, base) for name in names)
        with running(folder, config, {"SECRET": GOOD}, [GOOD], ready=False) as sidecar:
            with Flow(sidecar, "/fine") as fine, Flow(sidecar, "/denied", callers=1) as denied:
                for name in names[:3]:
                    status, headers = sidecar.get(f"/{name}")
                    assert (status, headers["x-countersign-error"]) == (503, "credential-unavailable"), name
                said = dict(zip(names, (line for name in names for line in sidecar.readiness()[1].splitlines()
                                        if f'credential "{name}"' in line)))
                assert f"STS, asked for role {arn('denied')}, refused: AccessDenied" in said["denied"], said
                assert "may the caller do sts:AssumeRole?" in said["denied"]
                assert f"STS, asked for role {arn('throttled')}, is throttling" in said["throttled"], said
                assert "has already expired" in said["ended"], said
                sts.refuse, sts.ended = {arn("denied"): (403, "AccessDenied")}, set()
                sidecar.until_answer("/throttled", 200, within=8)
                sidecar.until_answer("/ended", 200, within=8)
            assert list(fine.answers) == [200] and list(denied.answers) == [503], (fine.answers, denied.answers)
            sidecar.secrets |= set(sts.secrets())
        asked = [form["RoleArn"] for form in sts.forms]
        assert asked.count(arn("denied")) == 1, "somebody has to act first"
        assert asked.count(arn("fine")) == 1


@together.add
def a_roles_base_is_rotated(folder):
    """STS refuses the old base keys from one moment on; the session is renewed with the new ones in time."""
    for name, text in (("id", "AKIAOLD"), ("key", "old-secret-0123456789")):
        (folder / name).write_text(text)
    base = (f'{{ static = {{ access_key_id = {{ file = "{folder / "id"}" }}, '
            f'secret_access_key = {{ file = "{folder / "key"}" }} }} }}')
    with Sts(lifetime=12) as sts, Upstream() as upstream:
        upstream.judge = lambda call: key_id(call) in {key.id for key in sts.given}
        with running(folder, role_auth("orders", "orders", sts, upstream, base), {},
                     ["old-secret-0123456789", "new-secret-0123456789"]) as sidecar, \
                Flow(sidecar, "/orders") as flow:
            sidecar.until(lambda: flow.answers, "an answer")
            sts.unknown = {"AKIAOLD"}
            for name, text in (("key", "new-secret-0123456789"), ("id", "AKIANEW")):
                (folder / name).write_text(text)
            sidecar.until(lambda: len(sts.given) == 2, "a second session")
            second = sts.given[1].id
            sidecar.until(lambda: key_id(upstream.calls[-1]) == second, "its use")
            sidecar.secrets |= set(sts.secrets())
        assert list(flow.answers) == [200], flow.answers
        assert sts.callers[0] == "AKIAOLD" and sts.callers[-1] == "AKIANEW"
        # Renewed after 7.8 s at the earliest, and the files are looked at every 5 s: the old keys are not tried again.
        assert sts.callers == ["AKIAOLD", "AKIANEW"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    yield from together.run(tmp_path_factory.mktemp)


@pytest.mark.parametrize("name", together.functions)
def test_on_the_wire(name, outcomes):
    outcomes[name].result()
