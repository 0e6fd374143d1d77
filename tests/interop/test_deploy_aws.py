"""The AWS side: templates and policies by cfn-lint, then made in ministack, where countersign calls what they made.

No provider of Terraform's can be had here, so its modules are parsed, and what they name is looked up in themselves.
"""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

import botocore.exceptions
import container
import hcl2
import netns
import pytest
import yaml
from cloud import cloud
from conftest import REPOSITORY
from emulators import HOME_ACCOUNT, PARTNER_ACCOUNT, REGION, Ministack
from test_readme import curl

FOLDER = REPOSITORY / "deploy/aws"
TEMPLATES = sorted((FOLDER / "cloudformation").glob("*.yaml"))
POLICIES = sorted((FOLDER / "policies").glob("*.json"))
MODULES = sorted((FOLDER / "terraform").glob("*/main.tf"))
NAMES = ["my-domain.auth.ap-northeast-1.amazoncognito.com", f"secretsmanager.{REGION}.amazonaws.com", f"sts.{REGION}.amazonaws.com"]
UPSTREAM = "z1x2c3v4b5.execute-api.ap-northeast-1.amazonaws.com"


def lint(*paths: pathlib.Path) -> subprocess.CompletedProcess:
    command = [str(pathlib.Path(sys.executable).with_name("cfn-lint")), "--regions", REGION, "--", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def as_template(policy: dict) -> dict:
    """A template with this policy in the place that its kind has, for want of a linter of policies alone."""
    if "Principal" not in policy["Statement"][0]:
        return {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": policy}}
    if policy["Statement"][0]["Action"] == "execute-api:Invoke":
        return {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Name": "orders", "Policy": policy}}
    return {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": policy}}


def test_cfn_lint_has_nothing_to_say_of_templates_and_policies(tmp_path):
    made = {path.stem.title().replace("-", ""): as_template(json.loads(path.read_text())) for path in POLICIES}
    policies = tmp_path / "policies.yaml"
    policies.write_text(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": made}))
    assert len(TEMPLATES) == 4 and len(POLICIES) == 8
    done = lint(*TEMPLATES, policies)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_cfn_lint_would_find_a_slip(tmp_path):
    broken = tmp_path / "broken.yaml"
    text = (FOLDER / "cloudformation/m2m-client.yaml").read_text()
    broken.write_text(text.replace("GenerateSecret", "GenerateSecrets").replace("[client_credentials]", "[client-credentials]").replace("Effect: Allow", "Effect: allow"))
    done = lint(broken)
    assert all(word in done.stdout for word in ("GenerateSecrets", "client-credentials", "'allow'")), done.stdout


def test_every_policy_names_one_thing():
    """The least: no wildcard for an account, an API, an action or a principal."""
    for path in POLICIES:
        for statement in json.loads(path.read_text())["Statement"]:
            assert "*" not in json.dumps([statement["Action"], statement.get("Principal", "")]), path.name
            if "Resource" in statement:
                assert re.match(r"arn:aws:[a-z-]+:([a-z0-9-]+)?:\d{12}:[a-z0-9]+", statement["Resource"]), path.name
            if path.name.startswith("trust-"):
                assert statement["Condition"], path.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.parent.name)
def test_a_terraform_module_parses_and_names_what_it_has(path):
    text = path.read_text()
    module = hcl2.loads(text)

    def bare(name: str) -> str:
        return name.strip('"')

    declared = {f"var.{bare(name)}" for block in module.get("variable", []) for name in block}
    declared |= {f"local.{bare(name)}" for block in module.get("locals", []) for name in block if not name.startswith("__")}
    for kind, prefix in (("resource", ""), ("data", "data.")):
        for block in module.get(kind, []):
            declared |= {f"{prefix}{bare(type_)}.{bare(name)}" for type_, names in block.items() for name in names if not bare(name).startswith("__")}
    code = re.sub(r"#.*|description\s*=.*", "", text)
    used = set(re.findall(r"\b(?:data\.)?aws_\w+\.\w+|\b(?:var|local)\.\w+", code))
    assert used and used - declared == set()
    unused = {name for name in declared if name.startswith(("var.", "local.", "data."))} - used
    assert unused == set()


@pytest.mark.skipif(not shutil.which("terraform"), reason="terraform, for `terraform fmt`, is not installed")
def test_terraform_would_write_the_modules_so(tmp_path):
    empty = tmp_path / "terraformrc"
    empty.write_text("")
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", "-diff", str(FOLDER / "terraform")],
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "TF_CLI_CONFIG_FILE": str(empty), "CHECKPOINT_DISABLE": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_terraform_and_cloudformation_make_the_same_things():
    """Kinds of resources, which both tools name after the API's."""
    same = {
        "AWS::Cognito::UserPool": "aws_cognito_user_pool", "AWS::Cognito::UserPoolDomain": "aws_cognito_user_pool_domain",
        "AWS::Cognito::UserPoolResourceServer": "aws_cognito_resource_server", "AWS::Cognito::UserPoolClient": "aws_cognito_user_pool_client",
        "AWS::SecretsManager::Secret": "aws_secretsmanager_secret", "AWS::ApiGatewayV2::Authorizer": "aws_apigatewayv2_authorizer",
        "AWS::IAM::ManagedPolicy": "policy", "AWS::IAM::Role": "aws_iam_role",
    }  # fmt: skip
    pairs = {"m2m-client": ["m2m-client"], "iam-api": ["iam-api"], "cross-account-role": ["cross-account-role", "cross-account-caller"]}
    for module, templates in pairs.items():
        wanted = {same[one["Type"]] for name in templates for one in template(name)["Resources"].values()}
        text = (FOLDER / "terraform" / module / "main.tf").read_text()
        found = set(re.findall(r'^resource "(\w+)"', text, re.MULTILINE)) - {"aws_secretsmanager_secret_version"}
        policies = {name for name in found if name in ("aws_iam_policy", "aws_iam_role_policy")}
        assert bool(policies) == ("policy" in wanted), module
        assert found - policies == wanted - {"policy"}, module


def template(name: str) -> dict:
    class Loader(yaml.SafeLoader):
        """YAML with CloudFormation's short forms, left as they are written."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: getattr(node, "value", None))
    return yaml.load((FOLDER / f"cloudformation/{name}.yaml").read_text(), Loader)  # noqa: S506 - a SafeLoader


# Made in ministack, and called.


def test_a_machine_client_made_by_the_template_gets_through():
    netns.run_inside(calls_as_the_machine_client, timeout=90)


def calls_as_the_machine_client():
    with cloud([*NAMES, UPSTREAM]) as here:
        ministack, backend, authority = here.ministack, here.backend, here.authority
        apigateway = ministack.client("apigatewayv2")
        api = apigateway.create_api(Name="orders", ProtocolType="HTTP")["ApiId"]
        made = stack(ministack, "m2m-client", DomainPrefix="my-domain", HttpApiId=api)
        integration = apigateway.create_integration(ApiId=api, IntegrationType="HTTP_PROXY", IntegrationMethod="ANY", IntegrationUri=backend.url, PayloadFormatVersion="1.0")
        for path, scope in (("/orders/{proxy+}", "orders/read"), ("/admin/{proxy+}", "orders/write")):
            apigateway.create_route(
                ApiId=api, RouteKey=f"ANY {path}", Target=f"integrations/{integration['IntegrationId']}", AuthorizationType="JWT",
                AuthorizerId=made["AuthorizerId"], AuthorizationScopes=[scope],
            )  # fmt: skip
        apigateway.create_stage(ApiId=api, StageName="$default", AutoDeploy=True)
        ministack.answer_to(UPSTREAM, Named(api))
        key = ministack.user("caller")
        config = f"""
            [auth.orders]
            kind = "client-credentials"
            token_url = "{made["TokenUrl"]}"
            client_id = "{made["ClientId"]}"
            client_secret = {{ secretsmanager = "{made["SecretArn"]}", key = "client_secret", region = "{REGION}" }}
            scopes = ["orders/read"]
            [[route]]
            upstream = "https://{UPSTREAM}"
            auth = "orders"
        """
        with running(config, authority, key.environment()):
            assert curl(["curl", "http://127.0.0.1:8080/orders/42"])[0] == 503, "nobody may read the secret yet"
        ministack.client("iam").attach_user_policy(UserName="caller", PolicyArn=made["ReadSecretPolicyArn"])
        with running(config, authority, key.environment()):
            answer = curl(["curl", "http://127.0.0.1:8080/orders/42"])
            assert answer[0] == 200, answer
            assert curl(["curl", "http://127.0.0.1:8080/admin/42"])[0] == 403, "the client has the scope to read alone"
        assert [request.target for request in backend.reached] == ["/orders/42"]


def test_a_caller_of_an_iam_api_may_do_what_the_template_says():
    netns.run_inside(calls_the_iam_api, timeout=90)


def calls_the_iam_api():
    with cloud([*NAMES, UPSTREAM]) as here:
        ministack, backend, authority = here.ministack, here.backend, here.authority
        api = ministack.iam_api(backend)
        ministack.answer_to(UPSTREAM, api)
        made = stack(ministack, "iam-api", ApiId=api.id, Stage=api.stage, Method="GET", Path="orders/*")
        iam = ministack.client("iam")
        key = ministack.user("caller", {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": made["RoleArn"]})
        with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
            ministack.session(key, made["RoleArn"])  # the role is for tasks
        iam.attach_user_policy(UserName="caller", PolicyArn=made["InvokePolicyArn"])
        config = f"""
            [auth.iam]
            kind = "sigv4"
            [[route]]
            upstream = "https://{UPSTREAM}/{api.stage}"
            auth = "iam"
        """
        with running(config, authority, key.environment()):
            assert curl(["curl", "http://127.0.0.1:8080/orders/42"])[0] == 200
            assert curl(["curl", "http://127.0.0.1:8080/orders/42", "-d", "tea"])[0] == 403, "only GET"
            assert curl(["curl", "http://127.0.0.1:8080/admin/42"])[0] == 403, "only orders"
        assert len(backend.reached) == 1


def test_a_caller_of_another_account_takes_on_the_role_of_the_template():
    netns.run_inside(calls_the_other_account, timeout=90)


def calls_the_other_account():
    with cloud([*NAMES, UPSTREAM]) as here:
        ministack, backend, authority = here.ministack, here.backend, here.authority
        api = ministack.iam_api(backend, PARTNER_ACCOUNT)
        ministack.answer_to(UPSTREAM, api)
        key = ministack.user("caller")
        caller = f"arn:aws:iam::{HOME_ACCOUNT}:user/caller"
        role = stack(ministack, "cross-account-role", PARTNER_ACCOUNT, CallerArn=caller, ExternalId="orders-team", ApiId=api.id, Stage=api.stage)
        half = stack(ministack, "cross-account-caller", RoleArn=role["RoleArn"])
        ministack.client("iam").attach_user_policy(UserName="caller", PolicyArn=half["PolicyArn"])
        for external_id, status in (("another-team", 503), ("orders-team", 200)):
            config = f"""
                [auth.partner]
                kind = "sigv4"
                assume_role = {{ arn = "{role["RoleArn"]}", external_id = "{external_id}" }}
                [[route]]
                upstream = "https://{UPSTREAM}/{api.stage}"
                auth = "partner"
            """
            with running(config, authority, key.environment()):
                assert curl(["curl", "http://127.0.0.1:8080/orders/42"])[0] == status, external_id


class Named:
    """What `answer_to` wants to know of an API."""

    def __init__(self, id_):
        self.id, self.account = id_, HOME_ACCOUNT


def stack(ministack: Ministack, name: str, account: str = HOME_ACCOUNT, **parameters) -> dict[str, str]:
    """The outputs of a stack of this template."""
    client = ministack.client("cloudformation", account)
    client.create_stack(
        StackName=name, TemplateBody=(FOLDER / f"cloudformation/{name}.yaml").read_text(), Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )  # fmt: skip
    client.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})
    (made,) = client.describe_stacks(StackName=name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}


@contextlib.contextmanager
def running(config: str, authority: str, environment: dict[str, str]):
    made = container.Container(["run", "--config", "/etc/countersign/config.toml"], environment | {"AWS_REGION": REGION}, {"/etc/countersign/config.toml": config})
    with container.rooted(made, authority) as jail:
        jail.start()
        container.wait_for(jail, "http://127.0.0.1:9901/readyz")
        yield jail
        assert jail.stop()[0] == 0, jail.log.read_text()
