"""The Roles give Tidegate's pods the calls that they make, and no others."""

import re
from pathlib import Path
from typing import Any

import pytest

from tidegate.deployment.kserve import connection

ROOT = Path(__file__).parents[3]
TARGET = ROOT / "tidegate/deployment/kserve"
SUBMISSION = ROOT / "pipelines/kubeflow"
FOLDER = ROOT / "kserve/overlays/rbac"
WRITES = {"create", "update", "patch", "delete", "deletecollection"}


@pytest.fixture
def documents(rendered) -> list[dict[str, Any]]:
    return rendered(FOLDER)


def granted(documents: list[dict[str, Any]], role: str) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for name, rule in rules(documents)
        if name == role
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_a_rollout_may_do_what_the_target_does_and_no_more(documents):
    assert granted(documents, "tidegate-rollout") == calls_of_the_target()


def calls_of_the_target() -> set[tuple[str, str, str]]:
    """Return group, resource and verb of every call in the target's modules, by the method of the connection that makes it."""
    verbs = {"read": "get", "list": "list", "create": "create", "replace": "update", "delete": "delete"}
    source = "".join(file.read_text() for file in sorted(TARGET.glob("*.py")))
    made = set()
    for method, constant in re.findall(rf"\.({'|'.join(verbs)})\(\s*([A-Z_]+),", source):
        resource = getattr(connection, constant)
        made.add((resource.group, resource.plural, verbs[method]))
    if "connection.log(" in source:
        made.add(("", "pods/log", "get"))
    return made


def test_the_submitter_may_do_what_the_commands_do_and_no_more(documents):
    assert granted(documents, "tidegate-submitter") == {("pipelines.kubeflow.org", *call) for call in calls_of_the_commands()}


def calls_of_the_commands() -> set[tuple[str, str]]:
    """Return resource and verb, in the words of the Pipelines API's own checks, of every call in the commands' modules."""
    checked_as = {"recurringruns": "jobs"}
    verbs = {"get": "get", "pages": "list", "_first": "list", "create": "create", "upload": "create", "delete": "delete"}
    source = "".join(file.read_text() for file in sorted(SUBMISSION.glob("*.py")))
    made = set()
    for method, collection, rest in re.findall(r'\.(\w+)\(\s*f"\{API\}/([a-z]+)([^"]*)"', source):
        if collection == "healthz":
            continue
        resource = checked_as.get(collection, collection)
        action = re.search(r":(\{?\w+\}?)$", rest)
        if action is None:
            made.add((resource, verbs[method]))
        elif action[1] == "{action}":
            made |= {(resource, "enable"), (resource, "disable")}
        else:
            made.add((resource, action[1]))
    return made


def rules(documents: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (document["metadata"]["name"], rule)
        for document in documents
        if document["kind"] == "Role"
        for rule in document["rules"]
    ]


@pytest.mark.parametrize("field", ["apiGroups", "resources", "verbs"])
def test_no_rule_has_a_wildcard(field, documents):
    assert [name for name, rule in rules(documents) if "*" in "".join(rule[field])] == []


def test_nothing_holds_beyond_the_namespace(documents):
    assert {document["kind"] for document in documents} == {"Role", "RoleBinding", "ServiceAccount", "ServingRuntime"}


def test_nobody_may_raise_privileges(documents):
    verbs = {verb for _, rule in rules(documents) for verb in rule["verbs"]}

    assert verbs.isdisjoint({"bind", "escalate", "impersonate", "deletecollection"})


def test_secrets_are_read_by_name_alone(documents):
    about_secrets = [rule for _, rule in rules(documents) if "secrets" in rule["resources"]]

    assert [(rule["verbs"], rule["resourceNames"]) for rule in about_secrets] == [(["get"], ["mlpipeline-minio-artifact"])]


def test_only_these_things_can_be_changed(documents):
    changed = {(name, r) for name, rule in rules(documents) if WRITES & set(rule["verbs"]) for r in rule["resources"]}

    assert changed == {
        ("tidegate-rollout", "inferenceservices"),
        ("tidegate-rollout", "scaledobjects"),
        ("tidegate-rollout", "triggerauthentications"),
        ("tidegate-steps", "workflowtaskresults"),
        ("tidegate-submitter", "pipelines"),
        ("tidegate-submitter", "experiments"),
        ("tidegate-submitter", "runs"),
        ("tidegate-submitter", "jobs"),
    }


def test_every_role_is_bound_to_an_account_that_is_there(documents):
    accounts = {document["metadata"]["name"] for document in documents if document["kind"] == "ServiceAccount"}
    roles = {document["metadata"]["name"] for document in documents if document["kind"] == "Role"}
    bindings = [document for document in documents if document["kind"] == "RoleBinding"]

    assert {binding["roleRef"]["name"] for binding in bindings} == roles
    assert {subject["name"] for binding in bindings for subject in binding["subjects"]} <= accounts
