"""What every manifest test needs: kustomize as each kubectl renders it, and the schemas of Kubernetes and of its extensions."""

import copy
import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[3]
CRDS = ROOT.parent / "shared/specs/crds"
KUBERNETES = "1.32"
OLD_KUBECTL = Path(os.environ.get("TIDEGATE_KUBECTL_120", ROOT / ".tools/kubernetes-client/usr/bin/kubectl"))

ISTIO = "Istio's definitions are not at hand; tests/unit/kserve/test_security.py holds them to the shape in Istio's reference"
NO_SCHEMA_AT_HAND = {
    ("security.istio.io/v1", "AuthorizationPolicy"): ISTIO,
    ("security.istio.io/v1", "PeerAuthentication"): ISTIO,
}

Document = dict[str, Any]


@pytest.fixture
def rendered(program: Callable[[str], str]) -> Callable[[Path], list[Document]]:
    """Render a kustomization, `rendered(folder)`, by every kubectl there is; they must agree, whatever the order."""
    newer = shutil.which("kubectl")
    kubectls = [Path(found) for found in (newer, OLD_KUBECTL) if found is not None and Path(found).exists()]
    if not kubectls:
        program("kubectl")

    def render(folder: Path) -> list[Document]:
        renderings = {kubectl: _sorted(_kustomize(kubectl, folder)) for kubectl in kubectls}
        first, *others = copy.deepcopy(list(renderings.values()))
        for kubectl, other in zip(kubectls[1:], others, strict=True):
            assert other == first, f"{kubectl} renders {folder} otherwise than {kubectls[0]}"
        return first

    return render


@pytest.fixture
def check_manifest() -> Callable[[Document], None]:
    """Check one document, `check_manifest(document)`: valid by its schema, and no field that its schema does not know.

    Skips the test where a custom resource's definition is not at hand, and fails for a kind that no schema describes. Rules
    beyond OpenAPI (CEL expressions, webhooks) are not checked.
    """
    return _check


def _check(document: Document) -> None:
    api_version, kind = document["apiVersion"], document["kind"]
    name = f"{kind} {document['metadata'].get('name')}"
    _refuse(name, _metadata_validator(), document["metadata"], "metadata")
    if (api_version, kind) in NO_SCHEMA_AT_HAND:
        return
    if is_core(document):
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{name}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError:
            pytest.fail(f"{name}: no schema for {api_version}; list it with a reason under NO_SCHEMA_AT_HAND")
        return
    if not CRDS.exists():
        pytest.skip(f"needs the definitions of custom resources at {CRDS}")
    definitions = _definitions()
    if (api_version, kind) not in definitions:
        pytest.fail(f"{name}: no schema for {api_version}; list it with a reason under NO_SCHEMA_AT_HAND")
    _refuse(name, definitions[api_version, kind], document)


def is_core(document: Document) -> bool:
    """Whether Kubernetes itself serves this kind."""
    group = document["apiVersion"].rpartition("/")[0]
    return "." not in group or (group.endswith(".k8s.io") and group != "gateway.networking.k8s.io")


def _refuse(name: str, validator: Draft7Validator, document: Any, start: str = "") -> None:
    errors = [
        f"{'.'.join([start, *map(str, error.path)]).strip('.')}: {error.message}" for error in validator.iter_errors(document)
    ]
    assert errors == [], f"{name}: {errors}"


@functools.cache
def _definitions() -> dict[tuple[str, str], Draft7Validator]:
    found = {}
    for file in sorted(CRDS.glob("*.yaml")):
        spec = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = Draft7Validator(schema)
    return found


@functools.cache
def _metadata_validator() -> Draft7Validator:
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    name = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
    # Labels' values: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
    label = {"type": "string", "pattern": r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", "maxLength": 63}
    labels = {"type": "object", "additionalProperties": label}
    properties = {"name": name, "namespace": name, "labels": labels, "annotations": texts}
    return Draft7Validator({"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False})


def strict(schema: Any) -> Any:
    """Turn a structural OpenAPI schema into a JSON Schema that refuses what the API server would prune: unknown fields."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: strict(part) for name, part in schema.items()}
    if inner.get("type") == "object" and not inner.get("x-kubernetes-preserve-unknown-fields"):
        inner.setdefault("additionalProperties", False)
    if inner.get("nullable") is True and isinstance(inner.get("type"), str):
        inner["type"] = [inner["type"], "null"]
    return inner


@functools.cache
def _kustomize(kubectl: Path, folder: Path) -> tuple[Document, ...]:
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{kubectl} kustomize {folder}: {done.stderr}"
    return tuple(document for document in yaml.safe_load_all(done.stdout) if document)


def _sorted(documents: tuple[Document, ...]) -> list[Document]:
    def identity(document: Document) -> tuple[str, str, str, str]:
        metadata = document["metadata"]
        return document["apiVersion"], document["kind"], metadata.get("namespace", ""), metadata["name"]

    return sorted(documents, key=identity)
