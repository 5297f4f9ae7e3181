"""Builders steer by the parity gate itself: what would fail it does not agree."""

import numpy as np
import pytest

from tests.unit.optimization.variants import models
from tidegate.optimization.graphs.agreement import GoldenSample
from tidegate.packaging.format.golden import Golden
from tidegate.packaging.format.manifest import SCHEMA_VERSION, Manifest, Runtime, Signature, Task, TensorSpec, Variant
from tidegate.project import Tolerance


def sample(expected: list[float], task: Task = "regression") -> GoldenSample:
    """Rows 0, 1, … whose expected answers these are; graphs answer them from `x`."""
    name = "prediction" if task == "regression" else "probability"
    output = np.array(expected, dtype=np.float32)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="m",
        task=task,
        signature=Signature(
            inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1,)),),
            outputs=(TensorSpec(name=name, datatype="FP32", shape=(-1,)),),
        ),
        threshold=0.5 if task == "binary-classification" else None,
        variant=Variant(name="baseline", candidate="c"),
        runtime=Runtime(),
        metrics={},
        files={},
    )
    tolerance = Tolerance(max_absolute=0.01, max_relative=0.01, max_flip_rate=0.2)
    return GoldenSample(manifest, Golden({"x": output}, {name: output}), Runtime(), tolerance)


def graph(name: str, operator: str, by: float) -> bytes:
    text = f"g (float[n] x) => (float[n] {name}) {{ {name} = {operator}(x, by) }}"
    return models.graph_of(text, {"by": np.array(by)}).SerializeToString()


@pytest.mark.parametrize(
    ("operator", "by", "agrees"),
    [
        pytest.param("Add", 0.0, True, id="equal"),
        pytest.param("Add", 0.9, True, id="within the absolute tolerance, by the answers' size"),
        pytest.param("Add", 1.1, False, id="a zero that moved too far"),
        pytest.param("Mul", 1.019, True, id="within both tolerances together"),
        pytest.param("Mul", 1.03, False, id="large answers that moved too far"),
        pytest.param("Div", 0.0, False, id="infinite, or no number"),
    ],
)
def test_numbers_agree_within_the_tolerance(operator: str, by: float, agrees: bool) -> None:
    assert sample([0, 100, 100, 100]).agrees_with(graph("prediction", operator, by)) is agrees


@pytest.mark.parametrize(
    ("expected", "agrees"),
    [
        pytest.param([0.1, 0.2, 0.3, 0.4, 0.495, 0.6, 0.7, 0.8, 0.9], True, id="one of nine changes its class"),
        pytest.param([0.1, 0.494, 0.495, 0.497], False, id="three of four change their classes"),
    ],
)
def test_classes_that_change_count(expected: list[float], agrees: bool) -> None:
    assert sample(expected, "binary-classification").agrees_with(graph("probability", "Add", 0.009)) is agrees


def test_a_graph_that_cannot_be_loaded_does_not_agree() -> None:
    assert not sample([1.0]).agrees_with(b"no graph")
