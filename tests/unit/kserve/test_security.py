"""What the manifests may never do, and what the walls around the namespace are made of; a named case for each promise."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

import tidegate

ROOT = Path(__file__).parents[3]
KSERVE = ROOT / "kserve"
FOLDERS = sorted(str(file.parent.relative_to(KSERVE)) for file in KSERVE.rglob("kustomization.yaml"))
OUR_IMAGES = rf"tidegate/(server|server-gpu|steps):{re.escape(tidegate.__version__)}"
TRITON = r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3"

Document = dict[str, Any]


def containers(document: Document) -> list[Document]:
    """Return the containers that a document spells out; a ServingRuntime's, a Deployment's, or an InferenceService's own."""
    spec = document.get("spec") or {}
    pod = spec.get("template", {}).get("spec", {}) if document["kind"] == "Deployment" else spec
    components = [spec.get(name) or {} for name in ("predictor", "transformer", "explainer")]
    return [c for part in (pod, *components) for group in ("initContainers", "containers") for c in part.get(group, [])]


def context(container: Document) -> Document:
    return container.get("securityContext", {})


PROMISES = {
    "never root": lambda c: context(c).get("runAsNonRoot") is True and context(c).get("runAsUser", 1) != 0,
    "root filesystem is read-only": lambda c: context(c).get("readOnlyRootFilesystem") is True,
    "no privilege can be gained": lambda c: context(c).get("allowPrivilegeEscalation") is False,
    "not privileged": lambda c: not context(c).get("privileged"),
    "no capability": lambda c: context(c).get("capabilities") == {"drop": ["ALL"]},
    "system calls are filtered": lambda c: context(c).get("seccompProfile") == {"type": "RuntimeDefault"},
    "no port of the node": lambda c: not any("hostPort" in port for port in c.get("ports", [])),
    "an image that is meant": lambda c: bool(re.fullmatch(f"{OUR_IMAGES}|{TRITON}", c["image"])),
    "cpu and memory are bounded": lambda c: {"cpu", "memory"} <= set(c.get("resources", {}).get("limits", {})),
    "something can be written": lambda c: any(mount["mountPath"] == "/tmp" for mount in c.get("volumeMounts", [])),
}


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_container_keeps(promise, folder, rendered):
    found = [container for document in rendered(KSERVE / folder) for container in containers(document)]

    assert [container["name"] for container in found if not PROMISES[promise](container)] == []


def test_there_are_containers_to_look_at(rendered):
    found = {document["kind"] for folder in FOLDERS for document in rendered(KSERVE / folder) if containers(document)}

    assert found == {"ServingRuntime", "Deployment", "InferenceService"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_secret_stands_in_a_manifest(folder, rendered):
    for document in rendered(KSERVE / folder):
        assert document["kind"] != "Secret", document["metadata"]["name"]
        for name, value in variables(document):
            assert value is None or not re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", name), name


def variables(part: Any) -> list[tuple[str, str | None]]:
    """Return name and plain value of every variable in a document; None for one by reference."""
    if isinstance(part, list):
        return [found for item in part for found in variables(item)]
    if not isinstance(part, dict):
        return []
    own = [(entry["name"], entry.get("value")) for entry in part.get("env") or []]
    return own + [found for value in part.values() for found in variables(value)]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("field", ["hostNetwork", "hostPID", "hostIPC", "hostPath"])
def test_nothing_of_the_node_is_shared(field, folder, rendered):
    assert f'"{field}"' not in json.dumps(rendered(KSERVE / folder))


def test_model_servers_have_no_token_for_kubernetes(rendered):
    accounts = {
        document["metadata"]["name"]: document for document in rendered(KSERVE / "base") if document["kind"] == "ServiceAccount"
    }

    assert accounts["tidegate-serving"]["automountServiceAccountToken"] is False


@pytest.fixture
def walls(rendered) -> list[Document]:
    return rendered(KSERVE / "overlays/security")


def policies(walls: list[Document]) -> dict[str, Document]:
    return {wall["metadata"]["name"]: wall["spec"] for wall in walls if wall["kind"] == "NetworkPolicy"}


def test_nothing_comes_in_or_goes_out_that_no_policy_allows(walls):
    assert policies(walls)["tidegate-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_every_opening_names_a_peer_and_a_port(walls):
    for name, policy in policies(walls).items():
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for opening in policy.get(direction, []):
                assert opening[peers], name
                assert {} not in opening[peers], name
                assert opening["ports"], name


def test_the_nodes_metadata_is_out_of_reach(walls):
    blocks = [
        peer["ipBlock"]
        for policy in policies(walls).values()
        for opening in policy.get("egress", [])
        for peer in opening["to"]
        if "ipBlock" in peer
    ]

    assert blocks
    assert all("169.254.0.0/16" in block["except"] for block in blocks)


def test_the_model_server_is_reached_on_the_ports_of_its_runtime(walls, rendered):
    openings = policies(walls)["tidegate-serving"]["ingress"]
    open_ports = {port["port"] for opening in openings for port in opening["ports"]}
    runtimes = [container for document in rendered(KSERVE / "runtimes") for container in containers(document)]

    assert {port["containerPort"] for container in runtimes for port in container["ports"]} <= open_ports


def test_pod_security_is_enforced_and_the_strictest_warned_of(walls):
    (namespace,) = [wall for wall in walls if wall["kind"] == "Namespace"]
    prefix = "pod-security.kubernetes.io/"

    assert {key: value for key, value in namespace["metadata"]["labels"].items() if key.startswith(prefix)} == {
        f"{prefix}enforce": "baseline",
        f"{prefix}warn": "restricted",
        f"{prefix}audit": "restricted",
    }


def listed(*properties: str) -> Document:
    strings = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    return {
        "type": "object",
        "properties": dict.fromkeys(properties, strings),
        "additionalProperties": False,
        "minProperties": 1,
    }


# https://istio.io/latest/docs/reference/config/security/authorization-policy/ and …/peer_authentication/: the parts in use.
SELECTOR = {
    "type": "object",
    "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1}},
    "required": ["matchLabels"],
    "additionalProperties": False,
}
SOURCES = {"type": "array", "items": {"type": "object", "properties": {"source": listed("principals", "namespaces")}}}
OPERATIONS = {"type": "array", "items": {"type": "object", "properties": {"operation": listed("methods", "paths", "ports")}}}
RULE = {
    "type": "object",
    "properties": {"from": SOURCES, "to": OPERATIONS},
    "required": ["from", "to"],
    "additionalProperties": False,
}
ISTIO = {
    "AuthorizationPolicy": {
        "type": "object",
        "properties": {
            "selector": SELECTOR,
            "action": {"const": "ALLOW"},
            "rules": {"type": "array", "items": RULE, "minItems": 1},
        },
        "dependentRequired": {"rules": ["action"]},
        "additionalProperties": False,
    },
    "PeerAuthentication": {
        "type": "object",
        "properties": {"mtls": {"type": "object", "properties": {"mode": {"enum": ["STRICT", "PERMISSIVE"]}}}},
        "additionalProperties": False,
    },
}


def test_the_meshs_policies_have_the_shape_of_istios_reference(walls):
    meshed = [wall for wall in walls if wall["kind"] in ISTIO]

    assert meshed
    for wall in meshed:
        assert [error.message for error in Draft7Validator(ISTIO[wall["kind"]]).iter_errors(wall["spec"])] == []


def test_the_mesh_is_encrypted_and_denies_by_default(walls):
    specs = {(wall["kind"], wall["metadata"]["name"]): wall.get("spec") for wall in walls}

    assert specs["PeerAuthentication", "tidegate"] == {"mtls": {"mode": "STRICT"}}
    assert specs["AuthorizationPolicy", "tidegate-deny"] == {}


@pytest.fixture
def bucket_policy() -> Document:
    return json.loads((KSERVE / "overlays/security/s3/bucket-policy.json").read_text())


NEGATED = {"StringNotEquals", "ArnNotEquals", "StringNotLike", "ArnNotLike"}


def test_a_denial_for_another_value_leaves_out_requests_without_the_header(bucket_policy):
    """A negated operator holds where its key is absent too, so the key must be asked for.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
    """
    negated = [s["Condition"] for s in bucket_policy["Statement"] if NEGATED & set(s.get("Condition", {}))]

    assert len(negated) == 2
    for condition in negated:
        (operator,) = NEGATED & set(condition)
        assert condition["Null"] == dict.fromkeys(condition[operator], "false")


def test_the_bucket_is_encrypted_with_one_key_by_default_and_refuses_others(bucket_policy):
    default = json.loads((KSERVE / "overlays/security/s3/default-encryption.json").read_text())
    (rule,) = default["Rules"]
    encryption = rule["ApplyServerSideEncryptionByDefault"]
    denials = {s["Sid"]: s["Condition"] for s in bucket_policy["Statement"] if s["Effect"] == "Deny"}

    assert encryption["SSEAlgorithm"] == "aws:kms"
    assert list(denials["NoOtherEncryptionThanKms"]["StringNotEquals"].values()) == ["aws:kms"]
    assert list(denials["NoOtherKey"]["StringNotEquals"].values()) == [encryption["KMSMasterKeyID"]]
    assert denials["OnlyEncryptedConnections"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_model_servers_write_nothing_but_their_log(bucket_policy):
    from tidegate.serving.inference_log.schema import LOG_ROOT

    writing = [
        s["Resource"]
        for s in bucket_policy["Statement"]
        if s["Effect"] == "Allow"
        and "tidegate-serving" in json.dumps(s["Principal"])
        and "s3:PutObject" in json.dumps(s["Action"])
    ]

    assert writing == [f"arn:aws:s3:::flights/tidegate/{LOG_ROOT}/*"]
