"""A service with two revisions, the cluster sections it runs on, and KServe's own schema."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from tidegate.deployment.inference_service import Revision, Service
from tidegate.project.cluster import ClusterSection

CRDS = Path(__file__).parents[4].parent / "shared/specs/crds"


@pytest.fixture
def v1() -> Revision:
    return Revision("v1", "s3://bucket/models/flights-late/versions/1/", env={"TIDEGATE_WORKERS": "2"})


@pytest.fixture
def v2() -> Revision:
    return Revision("v2", "s3://bucket/models/flights-late/versions/2/", env={"TIDEGATE_WORKERS": "2"})


@pytest.fixture
def service(v1: Revision, v2: Revision) -> Service:
    return Service("flights-late", "flights", v1).with_canary(v2, percent=5)


@pytest.fixture
def cluster() -> Callable[..., ClusterSection]:
    """Make a cluster section: `cluster(mode="Knative", serving={…})`."""

    def make(**fields: Any) -> ClusterSection:
        return ClusterSection.model_validate({"store": "s3://bucket/tidegate", "namespace": "flights", **fields})

    return make


@pytest.fixture
def schema_errors() -> Callable[[dict[str, Any]], list[str]]:
    """Return what a custom resource's definition says against a document; skips where the definitions are not at hand."""
    if not CRDS.exists():
        pytest.skip(f"needs the definitions of custom resources at {CRDS}")
    return lambda document: [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in _validator(document["apiVersion"], document["kind"]).iter_errors(document)
    ]


@cache
def _validator(api_version: str, kind: str) -> Draft7Validator:
    group, _, version = api_version.partition("/")
    file = CRDS / f"{group}_{kind.lower()}s.yaml"
    definition = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
    schema = next(entry["schema"]["openAPIV3Schema"] for entry in definition["spec"]["versions"] if entry["name"] == version)
    return Draft7Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """Refuse unknown fields wherever a schema lists its own, as an API server does with `fieldValidation=Strict`."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _strict(part) for name, part in schema.items()}
    if isinstance(inner.get("properties"), dict) and not inner.get("x-kubernetes-preserve-unknown-fields"):
        inner.setdefault("additionalProperties", False)
    if inner.get("x-kubernetes-int-or-string"):
        inner.pop("type", None)
    return inner
