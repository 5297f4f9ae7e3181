import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tidegate.packaging.format.bill import bill_of_materials, installed_tools, tools_of
from tidegate.packaging.format.manifest import Lineage, Manifest, SourceFacts
from tidegate.packaging.format.package import copy_package, read_manifest, verify_package

STRANGE = 'a "quoted" <name> \u202e\n\x00 é 🛫'


@pytest.fixture
def manifest(tiny_package: Path) -> Manifest:
    return read_manifest(tiny_package)


@pytest.fixture(scope="session")
def lineage() -> Lineage:
    fields = ("run_id", "event_time", "window_start", "window_end", "holdout_start", "data_digest", "code_digest")
    facts = {field: f"<{field}>" for field in fields}
    return Lineage(created_at="2026-11-22T00:00:00+00:00", project_digest="sha256:2", **facts)


def bill(manifest: Manifest) -> dict[str, Any]:
    """The bill as a document, held against the schema of CycloneDX."""
    raw = bill_of_materials(manifest).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(raw) is None
    return json.loads(raw)


def facts(properties: list[dict[str, str]]) -> dict[str, str]:
    return {entry["name"].removeprefix("tidegate:"): entry["value"] for entry in properties}


def test_a_package_has_a_valid_one(tiny_package: Path, manifest: Manifest) -> None:
    raw = (tiny_package / "bom.cdx.json").read_bytes()
    others = {name: entry for name, entry in manifest.files.items() if name not in ("bom.cdx.json", "model-card.md")}

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(raw.decode()) is None
    assert raw == bill_of_materials(msgspec.structs.replace(manifest, files=others))


def test_the_model_is_a_machine_learning_model_with_its_card(manifest: Manifest, lineage: Lineage) -> None:
    model = bill(msgspec.structs.replace(manifest, lineage=lineage, metrics={"roc_auc": 0.71}))["metadata"]["component"]

    assert (model["type"], model["name"]) == ("machine-learning-model", "tiny")
    assert model["hashes"] == [{"alg": "SHA-256", "content": manifest.files["model.onnx"].sha256}]
    parameters = model["modelCard"]["modelParameters"]
    assert parameters["task"] == "binary-classification"
    assert parameters["modelArchitecture"] == manifest.source.kind
    assert {"format": "carrier: BYTES [-1, 1]"} in parameters["inputs"]
    assert facts(parameters["datasets"][0]["contents"]["properties"]) == {"data_digest": "<data_digest>"}
    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"] == [{"type": "roc_auc", "value": "0.71"}]
    assert facts(model["properties"]) | {"code_digest": "<code_digest>", "run_id": "<run_id>"} == facts(model["properties"])


def test_every_file_is_a_component_with_its_digest(manifest: Manifest) -> None:
    components = bill(manifest)["components"]

    listed = {part["name"]: part["hashes"][0]["content"] for part in components}
    assert listed == {name: entry.sha256 for name, entry in manifest.files.items()}


def test_every_reference_leads_to_one_component(manifest: Manifest) -> None:
    document = bill(manifest)
    references = [part["bom-ref"] for part in (document["metadata"]["component"], *document["components"])]
    (dependency,) = document["dependencies"]

    assert len(set(references)) == len(references)
    assert [dependency["ref"], *dependency["dependsOn"]] == references


def test_the_tools_are_the_distributions_that_took_part(manifest: Manifest) -> None:
    (formula,) = bill(manifest)["formulation"]
    tools = {part["name"]: part for part in formula["components"]}

    assert tools.keys() == {"numpy", "onnx", "onnxruntime", "scikit-learn", "skl2onnx", "tidegate"}
    assert tools["skl2onnx"]["version"] == importlib.metadata.version("skl2onnx")
    assert tools["skl2onnx"]["purl"] == f"pkg:pypi/skl2onnx@{importlib.metadata.version('skl2onnx')}"


@pytest.mark.parametrize(
    ("framework", "names"),
    [
        ("XGBoost", {"xgboost", "skl2onnx"}),
        ("PyTorch", {"torch", "onnxscript"}),
        ("Keras", {"tensorflow-cpu", "tf2onnx"}),
        ("ONNX", {"onnx"}),
        ("unheard of", {"onnx", "tidegate"}),
    ],
)
def test_the_tools_of_a_framework(framework: str, names: set[str]) -> None:
    assert names <= tools_of(framework).keys()
    assert ("skl2onnx" in tools_of(framework)) == (framework == "XGBoost")


def test_the_tools_of_a_variant() -> None:
    assert installed_tools("onnxslim", "unheard-of").keys() == {"numpy", "onnx", "onnxruntime", "onnxslim"}


def test_a_local_version_is_quoted(manifest: Manifest) -> None:
    (formula,) = bill(msgspec.structs.replace(manifest, tools={"Torch_Vision.x": "2.13.0+cpu"}))["formulation"]

    assert formula["components"][0]["purl"] == "pkg:pypi/torch-vision-x@2.13.0%2Bcpu"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"source": None, "tools": {}, "lineage": None, "metrics": {}}, id="nothing known"),
        pytest.param({"name": STRANGE, "tools": {STRANGE: STRANGE}, "metrics": {STRANGE: float(10**300)}}, id="strange names"),
        pytest.param({"source": SourceFacts(framework="ONNX", version="", kind="")}, id="an empty kind"),
    ],
)
def test_it_is_valid_whatever_the_manifest_says(manifest: Manifest, changes: dict[str, Any]) -> None:
    bill(msgspec.structs.replace(manifest, **changes))


@pytest.mark.parametrize(
    ("created_at", "timestamp"),
    [
        ("2026-11-22T00:00:00+00:00", "2026-11-22T00:00:00+00:00"),
        ("2026-11-22T01:02:03.5+02:00", "2026-11-22T01:02:03.500000+02:00"),
        ("2026-11-22T00:00:00", None),
        ("yesterday", None),
    ],
)
def test_its_time_is_when_the_package_was_made(
    manifest: Manifest, lineage: Lineage, created_at: str, timestamp: str | None
) -> None:
    made = msgspec.structs.replace(manifest, lineage=msgspec.structs.replace(lineage, created_at=created_at))

    assert bill(made)["metadata"].get("timestamp") == timestamp


def test_it_is_the_same_for_the_same_manifest_and_another_for_another(manifest: Manifest) -> None:
    other = msgspec.structs.replace(manifest, name="other")

    assert bill_of_materials(manifest) == bill_of_materials(manifest)
    assert bill(manifest)["serialNumber"] != bill(other)["serialNumber"]


def test_a_copy_says_what_the_copy_is(make_package: Callable[..., Path], tmp_path: Path) -> None:
    package = make_package()
    renamed = msgspec.structs.replace(read_manifest(package), name="renamed", tools={"onnx": "1.0"})

    copy_package(package, tmp_path / "copy", renamed)

    verify_package(tmp_path / "copy")
    written = json.loads((tmp_path / "copy" / "bom.cdx.json").read_bytes())
    assert written["metadata"]["component"]["name"] == "renamed"
    assert written["formulation"][0]["components"][0]["version"] == "1.0"
