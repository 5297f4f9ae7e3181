from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import Engine, Manifest, PackedInput, Runtime, Signature, TensorSpec
from tidegate.packaging.format.manifest_rules import check_manifest
from tidegate.packaging.format.package import read_manifest


@pytest.fixture
def manifest(make_package: Callable[..., Path]) -> Manifest:
    return read_manifest(make_package())


def tensor(name: str) -> TensorSpec:
    return TensorSpec(name=name, datatype="FP32", shape=(-1, 1))


def signature(inputs: tuple[str, ...] = ("distance",), outputs: tuple[str, ...] = ("probability",)) -> Signature:
    return Signature(inputs=tuple(map(tensor, inputs)), outputs=tuple(map(tensor, outputs)))


def packed(*columns: str) -> PackedInput:
    return PackedInput(name="numbers", datatype="FP32", columns=columns)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"signature": signature(inputs=())}, "signature.inputs: there is none", id="no input"),
        pytest.param({"signature": signature(outputs=())}, "signature.outputs: there is none", id="no output"),
        pytest.param({"signature": signature(("x", "x"))}, "signature.inputs: 'x' is there twice", id="an input twice"),
        pytest.param({"signature": signature(outputs=("score",))}, "answers 'probability', which is not", id="no score"),
        pytest.param({"packing": (packed("unheard"),)}, "packing: 'unheard' is no input", id="packs what is no input"),
        pytest.param({"packing": (packed("distance", "distance"),)}, "packing: 'distance' is packed twice", id="packs twice"),
        pytest.param({"classes": ("one",)}, "classes: there are 1, a binary-classification has 2", id="one class"),
        pytest.param({"classes": ("a", "a")}, "classes: 'a' is there twice", id="a class twice"),
        pytest.param({"threshold": None}, "threshold: it is None, a binary-classification needs", id="no threshold"),
        pytest.param({"threshold": 1.5}, "threshold: it is 1.5", id="a threshold beyond 1"),
        pytest.param(
            {"task": "regression", "signature": signature(outputs=("prediction",)), "classes": ()},
            "threshold: a regression has none",
            id="a regression's threshold",
        ),
        pytest.param(
            {"task": "multiclass-classification", "signature": signature(outputs=("probabilities",)), "classes": ("a",)}
            | {"threshold": None},
            "classes: there are 1, a multiclass-classification has 2 or more",
            id="a multiclass of one class",
        ),
        pytest.param(
            {"runtime": Runtime(engine=Engine(compute_capability="9.0", tensorrt="10.13"))},
            "runtime.engine: engine.onnx is not among the files",
            id="an engine that is not there",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(manifest: Manifest, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PackageError, match=f"^here: .*{says}.*; package again$"):
        check_manifest(msgspec.structs.replace(manifest, **changes), "here")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="a binary classification"),
        pytest.param({"packing": (packed("distance"),)}, id="packed inputs"),
        pytest.param(
            {"task": "regression", "signature": signature(outputs=("prediction",)), "classes": (), "threshold": None},
            id="a regression",
        ),
        pytest.param(
            {"task": "tensors", "signature": signature(("a", "b"), ("c", "d")), "classes": (), "threshold": None}, id="tensors"
        ),
    ],
)
def test_a_manifest_of_every_task_passes(manifest: Manifest, changes: dict[str, Any]) -> None:
    check_manifest(msgspec.structs.replace(manifest, **changes), "here")
