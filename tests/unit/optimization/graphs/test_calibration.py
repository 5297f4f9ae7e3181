from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from tests.unit.optimization.variants import models
from tidegate.errors import OptimizationError
from tidegate.optimization.graphs.calibration import activations, calibration_batches, observe_ranges


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    return models.write_model(models.dense(rng), models.rows_of(rng, 6), tmp_path_factory.mktemp("calibration") / "dense")


@pytest.mark.parametrize(
    ("wanted", "sizes"),
    [
        pytest.param(20, [20], id="fewer than the golden sample holds"),
        pytest.param(100, [48, 52], id="the golden sample and some of the reference"),
        pytest.param(130, [48, 64, 18], id="in batches"),
        pytest.param(10_000, [48, 64, 64, 64, 8], id="all there are"),
    ],
)
def test_batches_hold_golden_rows_first(package: Path, wanted: int, sizes: list[int]) -> None:
    assert [len(batch["x"]) for batch in calibration_batches(package, rows=wanted)] == sizes


def test_text_is_fed_as_it_is(candidates) -> None:
    batch = calibration_batches(candidates.packages / "mlp", rows=300)[0]

    assert {array.dtype.kind for array in batch.values()} == {"O", "f"}
    assert {len(array) for array in batch.values()} == {64}


def ranges(
    model: onnx.ModelProto, batches: list[dict[str, np.ndarray]], method: str, to: Path
) -> dict[str, tuple[float, float]]:
    observe_ranges(model, batches, ["MatMul", "Gemm"], method=method, percentile=99.0, save_to=to)
    data = msgspec.json.decode(to.read_bytes())["data"]
    return {name: (_number(found["lowest"]), _number(found["highest"])) for name, found in data.items()}


def _number(entry: object) -> float:
    return float(np.asarray(entry["data"] if isinstance(entry, dict) else entry).reshape(-1)[0])


def test_methods_differ_in_what_they_leave_out(package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(package / "model.onnx")
    batches = calibration_batches(package, rows=200)
    everything = np.concatenate([batch["x"] for batch in batches])

    found = {method: ranges(model, batches, method, tmp_path / method) for method in ("minmax", "entropy", "percentile")}

    assert found["minmax"]["x"] == pytest.approx((everything.min(), everything.max()))
    assert found["percentile"]["x"] == pytest.approx(np.quantile(everything, [0.005, 0.995]), abs=0.1)
    assert (
        found["minmax"].keys() == found["percentile"].keys() == found["entropy"].keys() >= {"x", "m1", "h1", "g2", "h2", "m3"}
    )
    widths = {method: sum(high - low for low, high in entries.values()) for method, entries in found.items()}
    assert widths["percentile"] < widths["minmax"]
    assert widths["entropy"] != pytest.approx(widths["minmax"])
    assert capfd.readouterr().out == "", "what the quantizer prints would spoil --json"


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_values_that_are_no_number_are_left_out_where_others_are(tmp_path: Path, method: str) -> None:
    model = models.graph_of("g (float[n, 2] x) => (float[n, 2] y) { y = MatMul(x, w) }", {"w": np.eye(2)})
    rows = np.linspace(-1, 3, 200, dtype=np.float32).reshape(100, 2)
    rows[7] = np.nan

    low, high = ranges(model, [{"x": rows}], method, tmp_path / "ranges")["x"]

    assert -1.1 < low < 0
    assert 1 < high < 3.1


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_a_value_without_a_finite_range_is_refused(tmp_path: Path, method: str) -> None:
    model = models.graph_of(
        "g (float[n, 2] x) => (float[n, 2] y) { i = Div(x, zero)  y = MatMul(i, w) }",
        {"w": np.eye(2), "zero": np.array(0.0)},
    )

    with pytest.raises(OptimizationError, match="an activation has no finite range on the calibration rows"):
        ranges(model, [{"x": np.ones((4, 2), dtype=np.float32)}], method, tmp_path / "ranges")


@pytest.mark.parametrize(
    ("kind", "value", "shape"),
    [pytest.param("dense", "h1", (30, 24), id="rows"), pytest.param("transformer", "u", (30 * 12, 32), id="rows and tokens")],
)
def test_activations_are_one_sample_a_line(kind: str, value: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    rows = models.token_rows(rng) if kind == "transformer" else models.rows_of(rng, 6)
    batches = [{name: array[start : start + 10] for name, array in rows.items()} for start in (0, 10, 20)]

    found = activations(getattr(models, kind)(rng), value, batches)

    assert found.shape == shape
    assert found.dtype == np.float64
