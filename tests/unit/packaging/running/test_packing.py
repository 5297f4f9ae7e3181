"""Feeding a packed graph: which arrays it gets for the signature's inputs."""

import numpy as np
import pytest

from tidegate.packaging.format.manifest import PackedInput
from tidegate.packaging.running.packing import Packer, pack

FLOATS = PackedInput(name="packed_fp32", datatype="FP32", columns=("b", "a"))
INTEGERS = PackedInput(name="packed_int64", datatype="INT64", columns=("n", "m"))


@pytest.fixture
def inputs() -> dict[str, np.ndarray]:
    columns = {name: np.array([[at], [at + 10]], np.float32) for at, name in enumerate("abc")}
    return columns | {name: np.array([[at], [at + 10]], np.int64) for at, name in enumerate("mn")}


def test_columns_stand_side_by_side_in_the_packings_order(inputs: dict[str, np.ndarray]) -> None:
    feeds = pack(inputs, (FLOATS, INTEGERS))
    assert sorted(feeds) == ["c", "packed_fp32", "packed_int64"]
    assert feeds["packed_fp32"].tolist() == [[1, 0], [11, 10]]
    assert feeds["packed_fp32"].dtype == np.float32
    assert feeds["packed_int64"].tolist() == [[1, 0], [11, 10]]
    assert feeds["packed_int64"].dtype == np.int64


def test_what_is_not_packed_is_not_copied(inputs: dict[str, np.ndarray]) -> None:
    assert pack(inputs, (FLOATS,))["c"] is inputs["c"]


def test_without_packing_every_input_is_the_graphs(inputs: dict[str, np.ndarray]) -> None:
    assert pack(inputs, ()) == inputs


def test_texts_are_packed_as_objects() -> None:
    texts = PackedInput(name="packed_bytes", datatype="BYTES", columns=("x", "y"))
    packed = pack({"x": np.array([["ü"]], object), "y": np.array([[""]], object)}, (texts,))["packed_bytes"]
    assert packed.dtype == object
    assert packed.tolist() == [["ü", ""]]


def test_the_graphs_inputs_are_named(inputs: dict[str, np.ndarray]) -> None:
    packer = Packer((FLOATS,), list(inputs))
    assert packer.graph_inputs == ("c", "m", "n", "packed_fp32")
    assert tuple(packer(inputs)) == packer.graph_inputs


def test_a_missing_column_is_named(inputs: dict[str, np.ndarray]) -> None:
    packer = Packer((FLOATS,), list(inputs))
    del inputs["b"]
    with pytest.raises(KeyError, match="b"):
        packer(inputs)
