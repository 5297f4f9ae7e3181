"""Writes a package's bill of materials: what the model is, what it was made with, and what it is made of.

The document is CycloneDX 1.6, JSON: the model is a `machine-learning-model` with a model card, its components are the package's
files with their digests, its formulation names the framework, the converters and the runtime. It is made from the manifest and
from nothing else: the same manifest gives the same bytes. (`cyclonedx-python-lib` knows no model cards, so it writes none of
this; the tests hold every bill against its schema.)

Source: https://cyclonedx.org/docs/1.6/json/ and https://cyclonedx.org/capabilities/mlbom/.
"""

import hashlib
import importlib.metadata
import json
import re
import uuid
from datetime import datetime
from typing import Any
from urllib.parse import quote

import tidegate
from tidegate.packaging.format.manifest import MODEL_NAME, FileEntry, Lineage, Manifest, TensorSpec

_Json = dict[str, Any]
_MODEL = "model"
_WRITER = ("tidegate", tidegate.__version__)

# The distributions that take part in packaging a framework's models, beside those that always do.
_ALWAYS = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu")
_CONVERTERS: dict[str, tuple[str, ...]] = {
    "scikit-learn": ("scikit-learn", "skl2onnx"),
    "XGBoost": ("xgboost", "skl2onnx"),
    "LightGBM": ("lightgbm", "skl2onnx"),
    "PyTorch": ("torch", "onnxscript"),
    "TensorFlow": ("tensorflow", "tensorflow-cpu", "tf2onnx"),
    "Keras": ("keras", "tensorflow", "tensorflow-cpu", "tf2onnx"),
    "transformers": ("transformers", "torch", "onnxscript"),
    "ONNX": (),
}


def tools_of(framework: str) -> dict[str, str]:
    """Return the installed distributions, with versions, that take part in packaging a model of this framework here."""
    return installed_tools(*_CONVERTERS.get(framework, ())) | {"tidegate": tidegate.__version__}


def installed_tools(*names: str) -> dict[str, str]:
    """Return which of these distributions, and of those that always take part, are installed, with their versions."""
    return {name: version for name in sorted({*_ALWAYS, *names}) if (version := _installed_version(name))}


def bill_of_materials(manifest: Manifest) -> bytes:
    """Return the bytes of `bom.cdx.json` for a package whose manifest lists every other file already."""
    files = sorted(manifest.files)
    document: _Json = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {**_timestamp(manifest.lineage), "tools": {"components": [_tool(*_WRITER)]}, "component": _model(manifest)},
        "components": [_file(name, manifest.files[name]) for name in files],
        "dependencies": [{"ref": _MODEL, "dependsOn": [f"file:{name}" for name in files]}],
    }
    if manifest.tools:
        document["formulation"] = [{"components": [_tool(*tool) for tool in sorted(manifest.tools.items())]}]
    content = json.dumps(document, sort_keys=True, ensure_ascii=False).encode()
    serial = uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=5)
    return json.dumps({**document, "serialNumber": f"urn:uuid:{serial}"}, indent=2, ensure_ascii=False).encode() + b"\n"


def _model(manifest: Manifest) -> _Json:
    graph = manifest.files[MODEL_NAME].sha256
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": manifest.name,
        "version": graph[:12],
        "description": f"{manifest.task}: variant {manifest.variant.name} of {manifest.variant.candidate}",
        "hashes": [_sha256(graph)],
        "modelCard": _model_card(manifest),
        "properties": _properties(_facts(manifest)),
    }


def _model_card(manifest: Manifest) -> _Json:
    parameters: _Json = {
        "task": manifest.task,
        "inputs": [{"format": _format(spec)} for spec in manifest.signature.inputs],
        "outputs": [{"format": _format(spec)} for spec in manifest.signature.outputs],
    }
    if manifest.source:
        parameters["modelArchitecture"] = manifest.source.kind
    if manifest.task != "tensors":
        parameters["approach"] = {"type": "supervised"}
    if manifest.lineage:
        parameters["datasets"] = [_training_data(manifest.lineage)]
    card: _Json = {"modelParameters": parameters}
    if manifest.metrics:
        metrics = [{"type": name, "value": f"{value:.6g}"} for name, value in sorted(manifest.metrics.items())]
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    return card


def _training_data(lineage: Lineage) -> _Json:
    return {
        "type": "dataset",
        "name": "training set",
        "description": f"events from {lineage.window_start} to {lineage.window_end}, of which the holdout starts at "
        f"{lineage.holdout_start}",
        "contents": {"properties": _properties({"data_digest": lineage.data_digest})},
    }


def _facts(manifest: Manifest) -> dict[str, str]:
    facts = {"candidate": manifest.variant.candidate, "variant": manifest.variant.name, "precision": manifest.variant.precision}
    facts |= {"providers": ", ".join(manifest.runtime.providers)}
    if source := manifest.source:
        facts |= {"source": f"{source.framework} {source.version}", "source_digest": source.digest}
    if lineage := manifest.lineage:
        facts |= {"run_id": lineage.run_id, "code_digest": lineage.code_digest, "project_digest": lineage.project_digest}
        facts |= {"event_time": lineage.event_time, "reason": lineage.reason}
    return facts


def _file(name: str, entry: FileEntry) -> _Json:
    properties = _properties({"size": str(entry.size)})
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [_sha256(entry.sha256)],
        "properties": properties,
    }


def _tool(name: str, version: str) -> _Json:
    purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{quote(version, safe='')}"
    return {"type": "library", "name": name, "version": version, "purl": purl}


def _format(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.datatype} {list(spec.shape)}"


def _sha256(digest: str) -> _Json:
    return {"alg": "SHA-256", "content": digest}


def _properties(facts: dict[str, str]) -> list[_Json]:
    return [{"name": f"tidegate:{name}", "value": value} for name, value in facts.items() if value]


def _timestamp(lineage: Lineage | None) -> _Json:
    """Return the time at which the package was made; none is better than the time at which it was copied."""
    try:
        made_at = datetime.fromisoformat(lineage.created_at) if lineage else None
    except ValueError:
        made_at = None
    return {"timestamp": made_at.isoformat()} if made_at and made_at.tzinfo else {}


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
