"""The manifests under kserve/: valid by KServe's own schema, without unknown fields, and in step with the code they start."""

from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from jsonschema import Draft7Validator

from tidegate.cli import serve
from tidegate.deployment.inference_service import Revision

ROOT = Path(__file__).parents[3]
CRD = ROOT.parent / "shared/specs/crds/serving.kserve.io_servingruntimes.yaml"
RUNTIME = yaml.safe_load((ROOT / "kserve/runtimes/tidegate-onnx.yaml").read_text())


@pytest.mark.skipif(not CRD.exists(), reason=f"needs KServe's schema at {CRD}")
def test_runtime_fits_the_schema_and_has_no_unknown_field():
    versions = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    schema = next(version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1alpha1")

    errors = [error.message for error in Draft7Validator(strict(schema)).iter_errors(RUNTIME)]

    assert errors == []


def test_every_resource_is_in_the_kustomization():
    folder = ROOT / "kserve/runtimes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]

    assert sorted(listed) == sorted(file.name for file in folder.glob("*.yaml") if file.name != "kustomization.yaml")


def test_an_inference_service_asks_for_this_runtime():
    predictor = Revision("v1", "s3://bucket/flights/1/").to_predictor()

    assert predictor["model"]["runtime"] == RUNTIME["metadata"]["name"]


def test_the_container_is_started_with_options_that_the_command_has():
    command, _, *options = RUNTIME["spec"]["containers"][0]["args"]
    app = typer.Typer()
    app.command()(serve.command)
    known = {name for parameter in typer.main.get_command(app).params for name in parameter.opts}

    assert command == "serve"
    assert {option.partition("=")[0] for option in options} <= known


def test_the_container_has_no_privileges():
    context = RUNTIME["spec"]["containers"][0]["securityContext"]

    assert context["runAsNonRoot"] is True
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def strict(schema: Any) -> Any:
    """Refuse unknown fields wherever a schema lists its own."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: strict(part) for name, part in schema.items()}
    if (
        "properties" in inner
        and not inner.get("x-kubernetes-preserve-unknown-fields")
        and "metadata" not in inner["properties"]
    ):
        inner.setdefault("additionalProperties", False)
    return inner
