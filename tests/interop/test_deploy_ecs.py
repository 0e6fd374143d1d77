"""The recipes of ECS and compose: other people's models of them, and their countersign run with a read-only root."""

import json
import re
import subprocess
import urllib.request

import botocore.session
import botocore.validate
import container
import netns
import pytest
import yaml
from cloud import cloud
from conftest import REPOSITORY
from emulators import HOME_ACCOUNT, ContainerCredentials, allow_assume, allow_invoke

TASK = json.loads((REPOSITORY / "deploy/ecs/task-definition.json").read_text())
COMPOSE = REPOSITORY / "deploy/compose/compose.yaml"
TOOLS = REPOSITORY / "tests/interop/node_modules/.bin"
VERSION = re.search(r'^version = "(.*)"', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)[1]
CLIENT_SECRET = "not-a-secret-0123456789"


def of_task() -> tuple[dict, container.Container]:
    """The sidecar's definition, and what ECS would start."""
    (one,) = (each for each in TASK["containerDefinitions"] if each["name"] == "countersign")
    environment = {each["name"]: each["value"] for each in one["environment"]}
    environment |= {each["name"]: CLIENT_SECRET for each in one["secrets"]}
    return one, container.Container(one["command"], environment, {}, one["user"])


def of_compose() -> tuple[dict, container.Container]:
    document = yaml.safe_load(COMPOSE.read_text())
    one = document["services"]["countersign"]
    files = {}
    for each in one["configs"]:
        files[each["target"]] = (COMPOSE.parent / document["configs"][each["source"]]["file"]).read_text()
    for name in one["secrets"]:
        assert document["secrets"][name] == {"file": f"./{name}"}
        files[f"/run/secrets/{name}"] = CLIENT_SECRET
    environment = {name: re.sub(r"\$\{\w+:\?[^}]*\}", "141ko0tsl9qpba05m4p19179m2", value) for name, value in one["environment"].items()}
    return one, container.Container(one["command"], environment, files, one["user"])


# ECS.


def wrong_words(value, shape, place="") -> list[str]:
    """Strings that are none of those that the model lists: its validator does not look at them."""
    if shape.type_name == "structure":
        return [found for name, each in value.items() for found in wrong_words(each, shape.members[name], f"{place}.{name}")]
    if shape.type_name == "list":
        return [found for at, each in enumerate(value) for found in wrong_words(each, shape.member, f"{place}[{at}]")]
    allowed = getattr(shape, "enum", [])
    return [f"{place}: {value}"] if allowed and value not in allowed else []


def complaints(task: dict) -> list[str]:
    model = botocore.session.Session().get_service_model("ecs").operation_model("RegisterTaskDefinition").input_shape
    report = botocore.validate.ParamValidator().validate(task, model).generate_report()
    return [report] if report else wrong_words(task, model)


def test_the_model_of_the_api_takes_the_task_definition():
    assert complaints(TASK) == []


@pytest.mark.parametrize("right, wrong", [("readonlyRootFilesystem", "readOnlyRootFilesystem"), ('"HEALTHY"', '"healthy"'), ('"stopTimeout": 30', '"stopTimeout": "30s"')])
def test_the_model_would_find_a_slip(right, wrong):
    assert complaints(json.loads(json.dumps(TASK).replace(right, wrong)))


def test_the_task_starts_and_ends_in_order():
    one, made = of_task()
    (app,) = (each for each in TASK["containerDefinitions"] if each is not one)
    assert app["dependsOn"] == [{"containerName": "countersign", "condition": "HEALTHY"}]
    assert one["essential"] and one["readonlyRootFilesystem"] and one["user"] == str(container.NOBODY)
    assert one["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    assert "portMappings" not in one and one["image"].endswith(f":{VERSION}")
    assert made.drain_timeout() + 5 <= one["stopTimeout"] <= 120, "Fargate waits two minutes at most"
    # CMD-SHELL would want a shell, which the image has not.
    assert one["healthCheck"]["command"][0] == "CMD"
    # ECS takes 1024 units for a core, and no less than 6 MiB.
    assert sum(each.get("cpu", 0) for each in TASK["containerDefinitions"]) <= int(TASK["cpu"])
    assert one["memoryReservation"] < one["memory"] < int(TASK["memory"])


def test_the_sidecar_of_a_task_runs_as_ecs_would():
    netns.run_inside(serves_in_a_task, timeout=90)


def serves_in_a_task():
    one, made = of_task()
    by_prefix = {route["path"]: re.match(r"https://([^/]+)", route["upstream"])[1] for route in made.parsed()["route"]}
    with cloud(made.hosts(), [netns.ECS_AGENT]) as here:
        ministack = here.ministack
        app = ministack.app_client("orders/read", domain="my-domain")
        ministack.answer_to(by_prefix["/orders"], ministack.jwt_api(here.backend, app, "orders/read"))
        stock = ministack.iam_api(here.backend)
        ministack.answer_to(by_prefix["/stock"], stock)
        role = f"arn:aws:iam::{HOME_ACCOUNT}:role/shop"
        agent = ministack.user("agent", allow_assume(role))
        ministack.role("shop", f"arn:aws:iam::{HOME_ACCOUNT}:user/agent", allow_invoke(stock))
        key, expiry = ministack.session(agent, role)
        made.environment |= {
            "ORDERS_CLIENT_ID": app.id,
            "ORDERS_CLIENT_SECRET": app.secret,
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/4d9c1a3e",
        }
        with ContainerCredentials((netns.ECS_AGENT, 80), "/v2/credentials/4d9c1a3e", key, expiry) as metadata:
            with container.rooted(made, here.authority) as jail:
                assert jail.execute(*one["healthCheck"]["command"][1:]).returncode == 1, "nothing runs yet"
                jail.start()
                container.wait_for(jail, "http://127.0.0.1:9901/readyz")
                healthy = jail.execute(*one["healthCheck"]["command"][1:])
                assert (healthy.returncode, healthy.stderr) == (0, ""), healthy
                for path in ("/orders/42", "/stock/7"):
                    with urllib.request.urlopen(f"http://127.0.0.1:8080{path}", timeout=10) as answer:
                        assert answer.status == 200
                code, took = jail.stop()
                assert code == 0 and took < one["stopTimeout"], jail.log.read_text()
                printed = jail.log.read_text()
            assert metadata.asked == ["/v2/credentials/4d9c1a3e"]
        assert not [secret for secret in (app.secret, *key.secrets()) if secret in printed]


# Compose.


def dclint(path) -> subprocess.CompletedProcess:
    return subprocess.run([str(TOOLS / "dclint"), "--quiet", "--color=false", str(path)], capture_output=True, text=True, timeout=60, check=False)


def test_the_schema_of_compose_knows_all_of_it(tmp_path):
    """dclint carries the schema; its opinions on the order of keys are warnings, which are left out."""
    done = dclint(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "compose.yaml"
    broken.write_text(COMPOSE.read_text().replace("stop_grace_period: 30s", "stop_grace: 30s"))
    done = dclint(broken)
    assert done.returncode == 1 and "additional properties" in done.stdout, done.stdout + done.stderr


def test_the_compose_file_holds_together():
    one, made = of_compose()
    app = yaml.safe_load(COMPOSE.read_text())["services"]["app"]
    assert app["network_mode"] == "service:countersign", "127.0.0.1 must be the same for both"
    assert app["depends_on"]["countersign"]["condition"] == "service_healthy"
    assert one["read_only"] and one["cap_drop"] == ["ALL"] and one["user"] == f"{container.NOBODY}:{container.NOBODY}"
    assert one["security_opt"] == ["no-new-privileges:true"] and one["image"] == f"countersign:{VERSION}"
    assert container.seconds(one["stop_grace_period"]) >= made.drain_timeout() + 5
    assert one["healthcheck"]["test"] == ["CMD", "/countersign", "healthcheck", "--ready"]


def test_the_service_of_compose_runs():
    netns.run_inside(serves_in_compose, timeout=60)


def serves_in_compose():
    one, made = of_compose()
    with cloud(made.hosts()) as here, container.rooted(made, here.authority) as jail:
        checked = jail.execute("/countersign", "check", "--config", "/etc/countersign/config.toml")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        jail.start()
        container.wait_for(jail, "http://127.0.0.1:9901/readyz")
        # Ready is: each credential was tried. This one is refused, which the log and the hint say.
        assert jail.execute(*one["healthcheck"]["test"][1:]).returncode == 0
        assert jail.stop()[0] == 0
        assert "invalid_client" in jail.log.read_text(), jail.log.read_text()
