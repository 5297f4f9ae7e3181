"""Loading a package's graph, and proving it on its golden sample."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests import small_packages
from tidegate.errors import PackageError
from tidegate.packaging.format.golden import Golden, golden_bytes, read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, MODEL_NAME, Manifest, Runtime, TensorSpec
from tidegate.packaging.format.package import read_manifest
from tidegate.serving.model.engine import Engine, _largest_difference, tolerances


@pytest.fixture
def copied(tiny_package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_package, tmp_path / "copied"))


def test_the_golden_sample_replays(tiny_package: Path, tiny_engine: Engine) -> None:
    assert tiny_engine.replay_golden(tiny_package) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda expected: expected + 0.01, "'probability' of the golden sample differs by 0.01", id="values"),
        pytest.param(lambda expected: expected[:-1], "of the golden sample has shape", id="other shape"),
        pytest.param(lambda expected: np.where(expected > 0, np.nan, expected), "differs", id="NaN"),
    ],
)
def test_a_golden_sample_that_does_not_replay_is_refused(
    tiny_engine: Engine, copied: Path, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    golden = read_golden(copied / GOLDEN_NAME)
    changed = Golden(golden.inputs, {"probability": change(golden.outputs["probability"])})
    (copied / GOLDEN_NAME).write_bytes(golden_bytes(changed))
    with pytest.raises(PackageError, match=message):
        tiny_engine.replay_golden(copied)


def test_a_golden_sample_of_other_inputs_is_refused(tiny_engine: Engine, copied: Path) -> None:
    golden = read_golden(copied / GOLDEN_NAME)
    inputs = {name: array for name, array in golden.inputs.items() if name != "hour"}
    (copied / GOLDEN_NAME).write_bytes(golden_bytes(Golden(inputs, golden.outputs)))
    with pytest.raises(PackageError, match="the golden sample cannot be run"):
        tiny_engine.replay_golden(copied)


def test_a_graph_that_is_none_is_refused(copied: Path, tiny_manifest: Manifest) -> None:
    (copied / MODEL_NAME).write_bytes(b"not a graph")
    with pytest.raises(PackageError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        Engine(copied, tiny_manifest)


def test_a_signature_of_other_inputs_is_refused(copied: Path, tiny_manifest: Manifest) -> None:
    signature = tiny_manifest.signature
    other = msgspec.structs.replace(
        signature, inputs=(*signature.inputs, TensorSpec(name="wind", datatype="FP32", shape=(-1, 1)))
    )
    with pytest.raises(PackageError, match="graph and signature differ in these inputs: wind"):
        Engine(copied, msgspec.structs.replace(tiny_manifest, signature=other))


def test_a_provider_that_is_not_there_is_refused(copied: Path, tiny_manifest: Manifest) -> None:
    runtime = Runtime(providers=("NoSuchExecutionProvider",))
    with pytest.raises(PackageError, match="ONNX Runtime has no NoSuchExecutionProvider"):
        Engine(copied, msgspec.structs.replace(tiny_manifest, runtime=runtime))


def test_an_output_without_a_row_axis_is_refused(tmp_path: Path) -> None:
    package = small_packages.without_rows(tmp_path / "package")
    with pytest.raises(PackageError, match=r"output 'total' has shape \[1, 1\] for 6 rows; its first axis must be the rows'"):
        Engine(package, read_manifest(package)).replay_golden(package)


@pytest.mark.parametrize("name", ["schema-1-baseline", "schema-1-int8"])
def test_packages_of_earlier_schemas_are_served(name: str) -> None:
    package = Path(__file__).parents[2] / "packaging" / "format" / "golden" / name
    assert Engine(package, read_manifest(package)).replay_golden(package) < 1e-5


@pytest.mark.parametrize(
    ("expected", "change", "fits"),
    [
        pytest.param(np.array([1000.0, 0.0], np.float32), 0.05, True, id="near zero beside a thousand"),
        pytest.param(np.array([1000.0, 0.0], np.float32), 2.0, False, id="too far beside a thousand"),
        pytest.param(np.array([np.inf, np.nan, 1.0], np.float32), 0.0, True, id="infinite and not a number"),
        pytest.param(np.array([0.25], np.float16), 0.0007, True, id="the last digits of half precision"),
        pytest.param(np.array([3, 4]), 0, True, id="integers"),
        pytest.param(np.array([3, 4]), 1, False, id="other integers"),
        pytest.param(np.array([True, False]), 0, True, id="booleans"),
    ],
)
def test_tolerances_follow_the_outputs_size_and_type(expected: np.ndarray, change: float, fits: bool) -> None:
    found = (expected + np.array(change, expected.dtype)).astype(expected.dtype)
    if fits:
        assert _largest_difference(found, expected, tolerances(expected), "output") <= change + 1e-3
    else:
        with pytest.raises(PackageError, match="output of the golden sample differs"):
            _largest_difference(found, expected, tolerances(expected), "output")


def test_a_package_for_an_accelerator_that_is_not_here_is_refused_unless_the_cpu_may_stand_in(
    copied: Path, tiny_manifest: Manifest
) -> None:
    manifest = msgspec.structs.replace(
        tiny_manifest, runtime=Runtime(providers=("NoSuchExecutionProvider", "CPUExecutionProvider"))
    )
    with pytest.raises(
        PackageError, match=r"no NoSuchExecutionProvider .*; serve it where that is, or with --allow-cpu-fallback"
    ):
        Engine(copied, manifest)
    engine = Engine(copied, manifest, allow_cpu_fallback=True)
    assert engine.is_fallback
    assert engine.warning is not None
    assert "the model runs on CPUExecutionProvider, slower than it was measured" in engine.warning
    assert engine.replay_golden(copied) < 1e-5


def test_an_engine_knows_whether_requests_may_share_a_run_and_how_long_one_takes(
    tiny_package: Path, tiny_engine: Engine
) -> None:
    tiny_engine.replay_golden(tiny_package)
    assert (tiny_engine.batchable, tiny_engine.is_fallback) == (True, False)
    assert 0 < tiny_engine.speed.row_seconds < 0.1


def test_an_engine_of_dependent_rows_says_why_and_is_served_all_the_same(tmp_path: Path) -> None:
    package = small_packages.less_the_mean(tmp_path / "package")
    engine = Engine(package, read_manifest(package))
    assert engine.replay_golden(package) < 1e-5
    assert not engine.batchable
    assert engine.dependence == "a row has another 'above' when the other rows of its run hold larger numbers"
    assert engine.speed.batch_rows == small_packages.ROWS


@pytest.mark.parametrize(
    ("change", "fits"), [pytest.param(1.02, True, id="some of its last digits"), pytest.param(1.1, False, id="more than that")]
)
def test_outputs_of_bfloat16_may_differ_in_its_last_digits(tmp_path: Path, change: float, fits: bool) -> None:
    package = small_packages.bfloat16(tmp_path / "package")
    golden = read_golden(package / GOLDEN_NAME)
    changed = {name: array * np.float32(change) for name, array in golden.outputs.items()}
    (package / GOLDEN_NAME).write_bytes(golden_bytes(Golden(golden.inputs, changed)))
    engine = Engine(package, read_manifest(package))
    if fits:
        assert engine.replay_golden(package) > 0
        assert engine.batchable
        return
    with pytest.raises(PackageError, match="of the golden sample differs"):
        engine.replay_golden(package)
