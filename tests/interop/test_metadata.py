"""Keys from where the code runs: ECS, EKS Pod Identity, EC2 and IRSA, with what goes wrong there (docs/rules.md 3.6).

All of it in one namespace (netns.py), on the addresses that AWS uses, at the same time: most of each scenario is waiting
for a renewal. HTTP_PROXY is set throughout and leads to a proxy that wants to be left alone.
"""

import concurrent.futures
import contextlib
import json
import pathlib
import tempfile
import time
import traceback

import pytest

import netns
from doubles import Agent, Answer, Double, Fault, Flow, Imds, Sts, Upstream, key_id, route, running
from emulators import REGION

LIFETIME = 12  # seconds; renewed after 7.8 to 9.6
DEADLINE = 60  # seconds for all scenarios together; about 25 are needed
ROLE = "arn:aws:iam::123456789012:role/pod"


# Everything from here runs inside the namespace.

class Nobody(Double):
    """A proxy that no metadata call may come to."""

    def reply(self, call):
        return Answer(502, b"")


class World:
    """The agents on their addresses, an API, and a proxy that the environment names."""

    def __init__(self, stack, directory):
        self.directory = pathlib.Path(directory)
        netns.settle([], addresses=(netns.ECS_AGENT, netns.EKS_AGENT, netns.INSTANCE_METADATA))
        self.pod_token = "pod-token-0123456789"
        self.ecs = stack.enter_context(Agent((netns.ECS_AGENT, 80), lifetime=LIFETIME))
        self.eks = stack.enter_context(Agent((netns.EKS_AGENT, 80), lifetime=LIFETIME, token=lambda: self.pod_token))
        self.imds = stack.enter_context(Imds((netns.INSTANCE_METADATA, 80), lifetime=LIFETIME))
        self.proxy = stack.enter_context(Nobody())
        self.stack = stack

    @contextlib.contextmanager
    def sidecar(self, name, credentials, environment, server, ready=True):
        """A countersign with one route by these credentials and one by keys that are always there, and its API.

        The API takes the keys that `server` has given and those; so an answer that is not 200 is countersign's failure.
        """
        folder = self.directory / name
        folder.mkdir()
        config = "".join(f"""
[auth.{auth}]
kind = "sigv4"
region = "{REGION}"
credentials = {value}
""" for auth, value in (("task", f'"{credentials}"'), ("other", """{ static = { \
access_key_id = { value = "AKIAOTHER" }, secret_access_key = { value = "other-0123456789" } } }""")))
        proxy = {"HTTP_PROXY": self.proxy.url, "http_proxy": self.proxy.url, "ALL_PROXY": self.proxy.url}
        with Upstream() as upstream:
            upstream.judge = lambda call: key_id(call) in {"AKIAOTHER", *(key.id for key in server.given)}
            config += route("task", upstream) + route("other", upstream)
            with running(folder, config, proxy | environment, ["other-0123456789"], ready) as sidecar:
                sidecar.upstream = upstream
                yield sidecar
                sidecar.secrets |= set(server.secrets())


def used(sidecar):
    """The keys that signed, in the order of their first use."""
    return list(dict.fromkeys(key_id(call) for call in sidecar.upstream.to("/task")))


def renewed(world, name, credentials, environment, server, between=lambda: None):
    """Two keys in turn, and no failed request. Gives the calls that the sidecar made of `server`, if it has it to itself."""
    with world.sidecar(name, credentials, environment, server) as sidecar, Flow(sidecar, "/task", callers=1) as flow:
        sidecar.until(lambda: len(used(sidecar)) == 1, "the first key")
        between()
        sidecar.until(lambda: len(used(sidecar)) == 2, "the second key", within=LIFETIME)
    assert list(flow.answers) == [200], flow.answers


def ecs(world, credentials):
    path = f"/v2/credentials/{credentials}"
    renewed(world, f"ecs-{credentials}", credentials, {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": path}, world.ecs)
    calls = [call for call in world.ecs.calls if call.target == path]
    assert [call.method for call in calls] == ["GET", "GET"]
    assert all(call.header("authorization") is None for call in calls)


def eks(world):
    """The token file ends in a newline, as `kubectl create secret` leaves it; the token is rotated after the first fetch."""
    tokens = [world.directory / f"pod-token-{credentials}" for credentials in ("container", "default")]
    for file in tokens:
        file.write_text(world.pod_token + "\n")
    fetched = []

    def rotate():
        fetched.append(True)
        if len(fetched) == len(tokens):
            world.pod_token = "rotated-token-0123456789"
            for file in tokens:
                file.with_suffix(".new").write_text(world.pod_token + "\n")
                file.with_suffix(".new").replace(file)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = [pool.submit(renewed, world, f"eks-{credentials}", credentials, {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{netns.EKS_AGENT}/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file),
        }, world.eks, rotate) for credentials, file in zip(("container", "default"), tokens)]
        for result in results:
            result.result()
    sent = [call.header("authorization") for call in world.eks.calls]
    assert sent == ["pod-token-0123456789"] * 2 + ["rotated-token-0123456789"] * 2, sent


def instance(world):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = [pool.submit(renewed, world, f"imds-{credentials}", credentials, {"AWS_EC2_METADATA_DISABLED": "false"},
                               world.imds) for credentials in ("instance", "default")]
        for result in results:
            result.result()
    for call in world.imds.calls:
        if call.target == "/latest/api/token":
            assert call.method == "PUT" and call.header("x-aws-ec2-metadata-token-ttl-seconds") == "21600"
        else:
            assert call.method == "GET" and call.header("x-aws-ec2-metadata-token"), "version 1"


def irsa(world, credentials):
    """The web identity token of a pod's service account, rotated: the next call to STS has the new one."""
    token = world.directory / f"irsa-token-{credentials}"
    token.write_text("eyJ.first-token.sig")
    with Sts(lifetime=LIFETIME) as sts:
        environment = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": ROLE, "AWS_ROLE_SESSION_NAME": "pod",
                       "AWS_ENDPOINT_URL_STS": sts.url}
        renewed(world, f"irsa-{credentials}", credentials, environment, sts,
                lambda: token.write_text("eyJ.second-token.sig"))
        assert sts.callers == [None, None], "signed"
        assert [(form["Action"], form["RoleArn"], form["RoleSessionName"], form["WebIdentityToken"]) for form in sts.forms] \
            == [("AssumeRoleWithWebIdentity", ROLE, "pod", f"eyJ.{which}-token.sig") for which in ("first", "second")]


# What readiness says of each fault, once a try has ended.
SAID = {
    Fault.FAILING: "the container's credential endpoint answered with status 500",
    Fault.RESET: "asking the container's credential endpoint",
    Fault.GARBAGE: "the container's credential endpoint gave an answer that cannot be used",
    Fault.HANG: "the container's credential endpoint did not answer within 5s",
    Fault.THROTTLED: "the container's credential endpoint is throttling",
}


def cold(world, fault):
    """No keys yet: 503 within 5 s that says when to come back, the cause in readiness; other routes do not notice."""
    path = f"/cold/{fault.value}"
    world.ecs.faults[path] = fault
    calls = lambda: [call for call in world.ecs.calls if call.target == path]
    with world.sidecar(f"cold-{fault.value}", "container", {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": path}, world.ecs,
                       ready=False) as sidecar, Flow(sidecar, "/other", callers=1) as other:
        begun = time.monotonic()
        status, headers = sidecar.get("/task")
        assert time.monotonic() - begun < 6, "a request waits 5 s for a credential"
        if fault is Fault.SLOW:
            assert status == 200
        else:
            assert (status, headers["x-countersign-error"]) == (503, "credential-unavailable")
            assert 1 <= int(headers["retry-after"]) <= 30
            assert not sidecar.upstream.to("/task"), "unsigned"
        if fault is Fault.THROTTLED:
            assert int(headers["retry-after"]) >= 28
        if fault in SAID and fault is not Fault.HANG:
            assert SAID[fault] in sidecar.readiness()[1], sidecar.readiness()
            sidecar.until_said(f'"error":"{SAID[fault]}')
        if fault is Fault.THROTTLED:
            for _ in range(100):
                assert sidecar.get("/task")[0] == 503
            assert len(calls()) == 1, "asked again before the time"
        else:
            del world.ecs.faults[path]
            # Pauses between tries are 5 s at most while there is nothing; a try that hangs is given up after 5 s.
            sidecar.until_answer("/task", 200, within=11)
            assert 'credential "task": valid' in sidecar.readiness()[1]
    assert list(other.answers) == [200], other.answers


def warm(world, fault):
    """A renewal fails while the keys are valid: nobody notices. And where it goes on failing, the last keys are used on."""
    path = f"/warm/{fault.value}"
    calls = lambda: [call for call in world.ecs.calls if call.target == path]
    with world.sidecar(f"warm-{fault.value}", "container", {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": path},
                       world.ecs) as sidecar, \
            Flow(sidecar, "/other", callers=1) as other, Flow(sidecar, "/task", callers=1) as task:
        end = time.monotonic() + LIFETIME
        sidecar.until(lambda: used(sidecar), "the first key")
        world.ecs.faults[path] = fault
        world.ecs.until(lambda: len(calls()) > 1, "a renewal that fails", within=LIFETIME)
        if fault in (Fault.HANG, Fault.THROTTLED):
            served = len(sidecar.upstream.to("/task"))
            # Beyond their end; a request may wait 5 s for fresh ones first.
            sidecar.until(lambda: time.monotonic() > end + 1 and len(sidecar.upstream.to("/task")) > served,
                          "a request with the last keys", within=LIFETIME)
            assert len(used(sidecar)) == 1
            if fault is Fault.THROTTLED:
                assert len(calls()) == 2, "asked again before the time"
        else:
            del world.ecs.faults[path]
            sidecar.until(lambda: len(used(sidecar)) == 2, "fresh keys once it is over", within=11)
    assert list(task.answers) == [200], task.answers
    assert list(other.answers) == [200], other.answers


def instance_cold(world, fault):
    """The instance's metadata fails at first: a 503, and keys soon after it is over."""
    with Imds(lifetime=LIFETIME) as imds:
        imds.fault = fault
        environment = {"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url}
        with world.sidecar(f"imds-{fault.value}", "instance", environment, imds, ready=False) as sidecar, \
                Flow(sidecar, "/other", callers=1) as other:
            status, headers = sidecar.get("/task")
            assert (status, headers["x-countersign-error"]) == (503, "credential-unavailable")
            assert not sidecar.upstream.to("/task"), "unsigned"
            imds.fault = None
            sidecar.until_answer("/task", 200, within=15)
        assert list(other.answers) == [200], other.answers


SCENARIOS = {
    "ecs[container]": (ecs, "container"),
    "ecs[default]": (ecs, "default"),
    "eks": (eks,),
    "instance": (instance,),
    "irsa[web-identity]": (irsa, "web-identity"),
    "irsa[default]": (irsa, "default"),
    **{f"{when.__name__}[{fault.value}]": (when, fault) for when in (cold, warm) for fault in Fault},
    **{f"instance_cold[{fault.value}]": (instance_cold, fault) for fault in (Fault.FAILING, Fault.RESET, Fault.HANG)},
}


def all_scenarios(outcome):
    """Writes what became of each to the file `outcome`: null, or how it failed."""
    with contextlib.ExitStack() as stack:
        world = World(stack, stack.enter_context(tempfile.TemporaryDirectory()))

        def run(scenario):
            function, *arguments = scenario
            try:
                function(world, *arguments)
            except BaseException:  # noqa: BLE001 - told by the test of that name
                return traceback.format_exc()

        with concurrent.futures.ThreadPoolExecutor(len(SCENARIOS)) as pool:
            results = dict(zip(SCENARIOS, pool.map(run, SCENARIOS.values())))
        results["proxy"] = None if not world.proxy.calls else f"calls at the proxy: {world.proxy.calls}"
        pathlib.Path(outcome).write_text(json.dumps(results))


# Outside again.

@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    file = tmp_path_factory.mktemp("metadata") / "outcomes.json"
    said = netns.run_inside(all_scenarios, str(file), timeout=DEADLINE)
    return json.loads(file.read_text()), said


@pytest.mark.parametrize("name", [*SCENARIOS, "proxy"])
def test_metadata(name, outcomes):
    results, said = outcomes
    if results[name]:
        pytest.fail(results[name] + said[-2000:], pytrace=False)
