"""The golden sample holds real rows and the edges of what training held, and stays small."""

import numpy as np
import pyarrow as pa
import pytest

from tidegate.packaging.format.manifest import TensorSpec
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.sample import golden_inputs, sample_rows
from tidegate.packaging.signature import infer_inputs


def edges_of(column: pa.Array, *, spec: TensorSpec | None = None) -> list:
    table = pa.table({"x": column})
    inputs = (spec,) if spec else infer_inputs(table, ["x"], None)
    _, edges = golden_inputs(table, inputs, count=1, seed=0)
    return edges["x"].reshape(len(edges["x"]), -1)[:, 0].tolist()


@pytest.mark.parametrize(
    ("column", "edges"),
    [
        pytest.param(pa.array([2.0, 4.0, 3.0]), [2, 4, 1.98, 4.02], id="floats: ends and beyond"),
        pytest.param(pa.array([-1.0, 1.0]), [-1, 1, -1.02, 1.02, 0, 1e-40], id="floats around zero: zero, and hardly more"),
        pytest.param(pa.array([5.0, 5.0]), [5, 5, 4.95, 5.05], id="one float"),
        pytest.param(pa.array([0.0]), [0, 0, -1, 1, 0, 1e-40], id="only zero"),
        pytest.param(pa.array([2, 9]), [2, 9, 1, 10], id="whole numbers"),
        pytest.param(pa.array([-2, 9]), [-2, 9, -3, 10, 0], id="whole numbers around zero"),
        pytest.param(pa.array([2**63 - 1, 5]), [5, 4], id="nothing beyond what 64 bits hold"),
        pytest.param(
            pa.array([3.4e38, -3.4e38], pa.float32()), [-3.4e38, 3.4e38, 0, 1e-40], id="nothing beyond what 32 bits hold"
        ),
        pytest.param(pa.nulls(2, pa.float32()), [np.nan], id="nothing known"),
        pytest.param(pa.array([0.25, None, 1]), [0.25, 1, 0.2425, 1.0075, np.nan], id="missing"),
        pytest.param(pa.array([0.25, np.nan, 1]), [0.25, 1, 0.2425, 1.0075, np.nan], id="missing as NaN"),
        pytest.param(pa.array([True, False]), [0, 1, -1, 2, 0], id="flags"),
    ],
)
def test_numbers_have_these_edges(column: pa.Array, edges: list[float]) -> None:
    np.testing.assert_allclose(edges_of(column), edges, rtol=1e-5)


def test_texts_are_rare_unknown_empty_and_long() -> None:
    edges = edges_of(pa.array(["a", "b", "a", "b", "c", None]).dictionary_encode())

    assert edges[:3] == ["c", "never seen ☃", ""]
    assert len(edges[3]) == 250


@pytest.mark.parametrize(
    ("datatype", "shape", "column", "edges"),
    [
        pytest.param("FP32", (-1, 2), [[1.5, 2.0], [3.0, 4.0]], {1.5, 4.0, 1.475, 4.025}, id="floats"),
        pytest.param("INT64", (-1, 3), [[5, 6, 7], [1, 0, 2]], {0, 7}, id="places in a table: none beyond"),
        pytest.param("BOOL", (-1, 2), [[True, False]], {False, True}, id="flags"),
    ],
)
def test_tensors_are_filled_with_their_edges(datatype: str, shape: tuple[int, ...], column: list, edges: set) -> None:
    numbers = [value for row in column for value in row]
    ends = {} if datatype == "BOOL" else {"minimum": float(min(numbers)), "maximum": float(max(numbers))}
    spec = TensorSpec(name="x", datatype=datatype, shape=shape, **ends)

    assert {round(edge, 6) for edge in edges_of(pa.array(column), spec=spec)} == edges


def test_many_columns_share_few_edge_rows_that_hold_every_edge() -> None:
    rng = np.random.default_rng(0)
    rows = pa.table({f"c{place}": rng.normal(size=400) for place in range(200)})
    inputs = infer_inputs(rows, rows.column_names, None)

    real, edges = golden_inputs(rows, inputs, count=256, seed=0)

    assert {len(array) for array in real.values()} == {256}
    assert {len(array) for array in edges.values()} == {192}
    for spec in inputs:
        assert np.float32(spec.minimum) in edges[spec.name]
        assert np.float32(spec.maximum) in edges[spec.name]


def test_large_tensors_make_the_sample_smaller() -> None:
    images = np.zeros((40, 3, 256, 256), dtype=np.float32)
    rows = pa.table({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(images)})

    real, edges = golden_inputs(rows, infer_inputs(rows, ["image"], None), count=256, seed=0)

    assert len(real["image"]) == 21  # of 768 KiB each
    assert len(edges["image"]) <= 21


def test_the_same_seed_draws_the_same_rows_in_their_order() -> None:
    rows = pa.table({"x": range(1_000)})

    drawn = sample_rows(rows, 10, seed=3)["x"].to_pylist()

    assert drawn == sorted(drawn) == sample_rows(rows, 10, seed=3)["x"].to_pylist()
    assert sample_rows(rows.slice(0, 5), 10, seed=3).num_rows == 5


def test_real_rows_are_as_serving_gives_them() -> None:
    rows = pa.table({"t": ["a", None], "x": [None, 2]})
    inputs = infer_inputs(rows, ["t", "x"], None)

    real, _ = golden_inputs(rows, inputs, count=10, seed=0)

    assert {name: array.tolist() for name, array in real.items()}.keys() == {"t", "x"}
    for name, array in input_arrays(rows, inputs).items():
        assert real[name].dtype == array.dtype
        assert real[name].shape == (2, 1)
