"""The Kubernetes recipes: what the API's schema says of them, what countersign says of their configs, and two of them run.

kustomize is the one in kubectl; where there is none, what it would have rendered is looked at piece by piece only.
"""

import functools
import re
import shlex
import shutil
import ssl
import subprocess
import tomllib
import urllib.error
import urllib.request

import container
import jwt_words
import kubernetes_validate
import netns
import pytest
import trustme
import yaml
from cloud import cloud
from conftest import REPOSITORY
from emulators import HOME_ACCOUNT, REGION, Backend, allow_invoke, policy

FOLDER = REPOSITORY / "deploy/kubernetes"
FILES = ("sidecar.yaml", "job-before-1.29.yaml")
OVERLAYS = ("shop", "shop-iam", "shop-pod-identity", "gateway-staging", "gateway-production")
# The oldest release that a recipe is for (README.md there), and the newest whose schema the validator has.
OLDEST = {"sidecar.yaml": "1.29", "job-before-1.29.yaml": "1.28", "shop": "1.29", "shop-iam": "1.29", "shop-pod-identity": "1.29"}
NEWEST = kubernetes_validate.latest_version()
POD_ADDRESS = "10.0.0.7"

SECRETS = {
    "orders-client": {"client_id": "141ko0tsl9qpba05m4p19179m2", "client_secret": "not-a-secret-0123456789"},
    "countersign-caller": {"token": "0123456789abcdef0123456789abcdef"},
    "countersign-quit": {"token": "0123456789abcdef0123456789abcdef"},
    "service-account": {"token": "e30.e30.e30"},
}
kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl, for `kubectl kustomize`, is not installed")
EVERYTHING = [*FILES, *(pytest.param(name, marks=kubectl) for name in OVERLAYS)]


@functools.cache
def documents(name: str) -> list[dict]:
    """What `kubectl apply` would send."""
    if name in FILES:
        text = (FOLDER / name).read_text()
    else:
        done = subprocess.run(["kubectl", "kustomize", str(FOLDER / "overlays" / name)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        text = done.stdout
    return [one for one in yaml.safe_load_all(text) if one]


@functools.cache
def certificates() -> dict[str, str]:
    """What cert-manager would have put into the Secret."""
    authority = trustme.CA()
    made = authority.issue_cert("countersign.shop.svc")
    return {
        "ca": authority.cert_pem.bytes().decode(),
        "tls.crt": made.cert_chain_pems[0].bytes().decode(),
        "tls.key": made.private_key_pem.bytes().decode(),
    }


def containers(name: str) -> list[container.Container]:
    secrets = SECRETS | {"countersign-tls": {part: certificates()[part] for part in ("tls.crt", "tls.key")}}
    return [container.of_pod(spec, documents(name), secrets) for _, spec in container.pod_specs(documents(name))]


def pieces():
    """Every manifest that is a resource by itself, as it stands in its file."""
    for path in sorted(FOLDER.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] not in ("Kustomization", "Component"):
                yield document


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_schema_of_the_api_knows_all_of_it(name):
    for version in (OLDEST.get(name, "1.30"), NEWEST):
        for document in documents(name):
            kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_would_find_a_slip():
    document = next(one for one in documents("sidecar.yaml") if one["kind"] == "Deployment")
    text = yaml.safe_dump(document).replace("readOnlyRootFilesystem", "readonlyRootFilesystem")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(yaml.safe_load(text), "1.29", strict=True)


def test_the_pieces_of_kustomize_are_resources_too():
    """Without kustomize: patches are whole enough for the schema, but for the selector that they must not repeat."""
    seen = 0
    for document in pieces():
        if document["kind"] == "Deployment" and "selector" not in document["spec"]:
            document["spec"] |= {"selector": {"matchLabels": {"app": "x"}}}
            document["spec"]["template"].setdefault("metadata", {"labels": {"app": "x"}})
            document["spec"]["template"]["spec"].setdefault("containers", [{"name": "app"}])
        kubernetes_validate.validate(document, "1.30", strict=True)
        seen += 1
    assert seen > 15, f"only {seen} in {FOLDER}"


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_sidecar_is_as_locked_up_as_it_can_be(name):
    pods = list(container.pod_specs(documents(name)))
    assert pods
    version = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["package"]["version"]
    for _, spec in pods:
        one = container.of_spec(spec)
        assert one["image"] == f"countersign:{version}"
        assert "command" not in one, "the image's entry point is the binary"
        rules = spec.get("securityContext", {}) | one["securityContext"]
        assert (rules["runAsNonRoot"], rules["runAsUser"], rules["runAsGroup"]) == (True, container.NOBODY, container.NOBODY)
        assert rules["readOnlyRootFilesystem"] is True and rules["allowPrivilegeEscalation"] is False
        assert rules["capabilities"] == {"drop": ["ALL"]} and rules["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(mount["readOnly"] for mount in one["volumeMounts"])
        assert "privileged" not in rules and "hostNetwork" not in spec


@pytest.mark.parametrize("name", EVERYTHING)
def test_there_is_time_to_drain(name):
    for (_, spec), made in zip(container.pod_specs(documents(name)), containers(name), strict=True):
        one = container.of_spec(spec)
        before = one.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        grace = spec["terminationGracePeriodSeconds"]
        assert grace >= before + made.drain_timeout() + 5, f"{grace} s for {before} s and {made.drain_timeout()} s"
        if one in spec.get("initContainers", []):
            assert before == 0, "a native sidecar's preStop runs when the app is still there"
            assert grace >= 2 * made.drain_timeout(), "the app's time comes first"


@pytest.mark.parametrize("name", EVERYTHING)
def test_probes_ask_the_port_that_the_config_opens_for_them(name):
    for (_, spec), made in zip(container.pod_specs(documents(name)), containers(name), strict=True):
        one = container.of_spec(spec)
        ports = {port["name"]: port["containerPort"] for port in one["ports"]}
        health = made.parsed()["admin"]["health_listen"]
        asked = {kind: one[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe") if kind in one}
        assert "livenessProbe" in asked
        assert "startupProbe" in asked or name == "job-before-1.29.yaml"
        for kind, get in asked.items():
            assert get["path"] == {"startupProbe": "/startupz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}[kind]
            assert health == f"0.0.0.0:{ports[get['port']]}"


@pytest.mark.parametrize("name", EVERYTHING)
def test_memory_holds_what_the_config_may_take(name):
    for (_, spec), made in zip(container.pod_specs(documents(name)), containers(name), strict=True):
        resources = container.of_spec(spec)["resources"]
        limit, request = container.size(resources["limits"]["memory"]), container.size(resources["requests"]["memory"])
        assert "cpu" not in resources["limits"], "what throttles the sidecar delays every request of the app"
        assert request >= 32 * container.MIB
        # A sidecar of one app is given less than the defaults need, and lowers its limits to that at its start.
        assert limit * 0.8 >= made.need() or (limit, made.need()) == (128 * container.MIB, 232 * container.MIB)


def in_order(one: dict) -> dict:
    return one | {"volumeMounts": sorted(one["volumeMounts"], key=lambda mount: mount["name"])}


@kubectl
def test_the_component_is_the_sidecar_of_the_one_file():
    (alone,) = (spec for _, spec in container.pod_specs(documents("sidecar.yaml")))
    wanted = container.of_spec(alone)
    for kind, spec in container.pod_specs(documents("shop")):
        one = container.of_spec(spec)
        assert one["restartPolicy"] == "Always" and one in spec["initContainers"], kind
        # kustomize puts what a patch adds to a list in front of it.
        assert in_order(one) == in_order(wanted), kind
        assert spec["terminationGracePeriodSeconds"] == alone["terminationGracePeriodSeconds"]


@kubectl
def test_the_gateway_is_for_callers_of_its_namespace():
    for name in ("gateway-staging", "gateway-production"):
        kinds = {document["kind"]: document for document in documents(name)}
        policy = kinds["NetworkPolicy"]["spec"]
        labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
        assert kinds["Service"]["spec"]["selector"].items() <= labels.items()
        (callers, scraper) = policy["ingress"]
        assert callers["from"] == [{"podSelector": {"matchLabels": {"countersign-client": "true"}}}]
        assert [port["port"] for port in callers["ports"]] == ["https"] and [port["port"] for port in scraper["ports"]] == ["admin"]
        (made,) = containers(name)
        proxy = made.parsed()["proxy"]
        assert proxy["expose"] is True and "caller_token" in proxy and "tls" in proxy
        assert ("PodDisruptionBudget" in kinds) == (kinds["Deployment"]["spec"]["replicas"] > 1)


@pytest.mark.parametrize("name", EVERYTHING)
def test_countersign_accepts_the_configs(name):
    for number in range(len(containers(name))):
        output = netns.run_inside(checked, name, number, timeout=40)
        assert re.search(r"^ok: \d+ route", output, re.MULTILINE), output
        # The port for Prometheus is the one thing that a config here is warned of.
        warnings = re.findall(r"^warning: (.*)$", output, re.MULTILINE)
        assert all(warning.startswith("the admin port can be reached") for warning in warnings), output
        assert bool(warnings) == name.startswith("gateway"), output


def checked(name: str, number: int):
    with container.rooted(containers(name)[number]) as jail:
        done = jail.execute("/countersign", "check", "--config", "/etc/countersign/config.toml")
        print(done.stdout, done.stderr, sep="")
        assert done.returncode == 0, done.stdout + done.stderr


# Two of them run, with the API and its issuer being ministack.


@kubectl
def test_the_sidecar_of_a_machine_client_runs_as_its_pod_would():
    netns.run_inside(serves_as_a_machine_client, timeout=90)


def serves_as_a_machine_client():
    made = containers("shop")[0]
    (token_host,) = (host for host in made.hosts() if "amazoncognito" in host)
    (upstream,) = (host for host in made.hosts() if "execute-api" in host)
    with cloud(made.hosts(), [POD_ADDRESS]) as here:
        ministack, backend = here.ministack, here.backend
        app = ministack.app_client("orders/read", domain=token_host.split(".")[0])
        ministack.answer_to(upstream, ministack.jwt_api(backend, app, "orders/read"))
        made.environment["ORDERS_CLIENT_ID"] = app.id
        made.files["/run/secrets/orders/client_secret"] = app.secret
        serves(made, here.authority, backend)


@kubectl
def test_the_gateway_serves_callers_that_show_the_token():
    netns.run_inside(serves_the_namespace, timeout=90)


def serves_the_namespace():
    (made,) = containers("gateway-staging")
    (token_host,) = (host for host in made.hosts() if "amazoncognito" in host)
    (upstream,) = (host for host in made.hosts() if "execute-api" in host)
    service = "countersign.shop.svc"
    with cloud([*made.hosts(), service, "elsewhere.shop.svc"], [POD_ADDRESS]) as here:
        app = here.ministack.app_client("orders/read", domain=token_host.split(".")[0])
        here.ministack.answer_to(upstream, here.ministack.jwt_api(here.backend, app, "orders/read"))
        made.environment["ORDERS_CLIENT_ID"] = app.id
        made.files["/run/secrets/orders/client_secret"] = app.secret
        trust = ssl.create_default_context(cadata=certificates()["ca"])

        def call(host: str, headers: dict[str, str]) -> int:
            request = urllib.request.Request(f"https://{service}:8443/orders/42", headers={"host": host} | headers)
            try:
                with urllib.request.urlopen(request, timeout=10, context=trust) as answer:
                    return answer.status
            except urllib.error.HTTPError as answer:
                return answer.code

        with container.rooted(made, here.authority) as jail:
            jail.start()
            container.wait_for(jail, f"http://{POD_ADDRESS}:9902/startupz")
            shown = {"x-countersign-token": SECRETS["countersign-caller"]["token"]}
            assert call(service, {}) == 401
            assert call("elsewhere.shop.svc", shown) == 403
            assert [call(host, shown) for host in (service, "countersign", f"{service}.cluster.local")] == [200, 200, 200]
            assert container.probe(f"http://{POD_ADDRESS}:9901/metrics") == 200
            assert len(here.backend.reached) == 3
            assert jail.stop()[0] == 0, jail.log.read_text()


def test_the_job_on_an_old_cluster_ends_its_sidecar():
    netns.run_inside(ends_when_asked, timeout=60)


def ends_when_asked():
    (made,) = containers("job-before-1.29.yaml")
    app = documents("job-before-1.29.yaml")[1]["spec"]["template"]["spec"]["containers"][0]
    # The app's last words, as they stand in the manifest.
    words = shlex.split(next(line for line in app["args"][0].splitlines() if "quitquitquit" in line))
    assert words[-1] == "http://127.0.0.1:9901/quitquitquit" and words[-2] == "x-countersign-token: $(cat /run/secrets/quit/token)"
    with cloud(made.hosts(), [POD_ADDRESS]) as here, container.rooted(made, here.authority) as jail:
        jail.start()
        container.wait_for(jail, "http://127.0.0.1:9901/readyz")
        for token, status in (("wrong", 401), (SECRETS["countersign-quit"]["token"], 200)):
            request = urllib.request.Request(words[-1], method="POST", headers={"x-countersign-token": token})
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    assert answer.status == status
            except urllib.error.HTTPError as answer:
                assert answer.code == status
        assert jail.process.wait(30) == 0, jail.log.read_text()


@kubectl
def test_the_sidecar_with_a_role_runs_as_its_pod_would():
    """The role's trust is policies/trust-irsa.json: ministack gives it to a token of that account of that issuer alone."""
    netns.run_inside(serves_as_a_role, timeout=90)


def serves_as_a_role():
    (made,) = containers("shop-iam")
    (upstream,) = made.hosts()
    with cloud([*made.hosts(), f"sts.{REGION}.amazonaws.com"], [POD_ADDRESS]) as here:
        ministack, backend = here.ministack, here.backend
        api = ministack.iam_api(backend)
        ministack.answer_to(upstream, api)
        trust = (REPOSITORY / "deploy/aws/policies/trust-irsa.json").read_text()
        issuer = re.search(r"oidc-provider/([^\"]+)", trust)[1]
        iam = ministack.client("iam")
        iam.create_role(RoleName="shop", AssumeRolePolicyDocument=trust.replace("123456789012", HOME_ACCOUNT))
        iam.put_role_policy(RoleName="shop", PolicyName="invoke", PolicyDocument=policy(allow_invoke(api)))
        made.environment["AWS_ROLE_ARN"] = f"arn:aws:iam::{HOME_ACCOUNT}:role/shop"
        for account, status in (("shop:other", None), ("shop:shop", 200)):
            made.files["/run/secrets/sts/token"] = jwt_words.token(iss=f"https://{issuer}", aud="sts.amazonaws.com", sub=f"system:serviceaccount:{account}")
            if status:
                serves(made, here.authority, backend)
            else:
                with container.rooted(made, here.authority) as jail:
                    refused = jail.execute("/countersign", "check", "--online", "--config", "/etc/countersign/config.toml")
                    assert refused.returncode == 1 and "AccessDenied" in refused.stdout + refused.stderr, refused
        assert {request.name for request in here.front.noted} == {upstream, f"sts.{REGION}.amazonaws.com"}


def serves(made: container.Container, authority: str, backend: Backend):
    """From the first probe to the last: what the kubelet, the app and the kernel see."""
    with container.rooted(made, authority) as jail:
        with pytest.raises(OSError, match="Read-only"):
            (jail.root / "anything").write_text("x")
        jail.start()
        # The kubelet is not in the pod: it asks at the pod's address.
        container.wait_for(jail, f"http://{POD_ADDRESS}:9902/startupz")
        assert container.probe(f"http://{POD_ADDRESS}:9902/readyz") == 200
        assert container.probe(f"http://{POD_ADDRESS}:9902/metrics") == 404
        assert container.probe(f"http://{POD_ADDRESS}:8080/orders/42") is None, "the proxy is for its own pod"
        status = jail.status()
        assert status["Uid"].split() == [str(container.NOBODY)] * 4 and status["Gid"].split() == [str(container.NOBODY)] * 4
        assert int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1"
        with urllib.request.urlopen("http://127.0.0.1:8080/orders/42", timeout=10) as answer:
            assert answer.status == 200
        assert backend.reached[-1].target.endswith("/orders/42")
        code, took = jail.stop()
        assert (code, took < made.drain_timeout()) == (0, True), jail.log.read_text()
