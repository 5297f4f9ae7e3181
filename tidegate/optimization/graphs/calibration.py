"""Calibration: real rows of a package, and the ranges that a graph's activations take on them."""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from tidegate.errors import OptimizationError
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.format.reference import read_reference
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.running.packing import pack

Array = NDArray[Any]
Method = Literal["minmax", "entropy", "percentile"]

_BATCH_ROWS = 64  # activations of so many rows lie in memory at once


def calibration_batches(package: Path, *, rows: int) -> list[dict[str, Array]]:
    """Return at most `rows` rows of a package's golden sample and reference in batches, as its graph is fed them.

    The golden sample's edge rows (range ends, missing values) are among them: a range that leaves them out saturates there.
    Reference rows are spread evenly over the reference.
    """
    manifest = read_manifest(package)
    golden = read_golden(package / GOLDEN_NAME)
    sources = [golden.inputs]
    missing = rows - golden.rows
    if missing > 0:
        reference = read_reference(package)
        spread = np.unique(np.linspace(0, reference.num_rows - 1, num=min(missing, reference.num_rows)).astype(np.int64))
        sources.append(input_arrays(reference.take(spread), manifest.signature.inputs))
    return [pack(batch, manifest.packing) for source in sources for batch in _in_batches(source, rows)]


def observe_ranges(
    graph: onnx.ModelProto,
    batches: Sequence[Mapping[str, Array]],
    operators: Iterable[str],
    *,
    method: Method,
    percentile: float,
    save_to: Path,
) -> None:
    """Write the range of every activation around `operators` to `save_to`, a calibration cache of ONNX Runtime's quantizer.

    Methods: `minmax` takes the least and greatest value; `percentile` leaves out the rarest values; `entropy` takes the range
    whose 8-bit histogram diverges least from the whole (Migacz, "8-bit inference with TensorRT", GTC 2017).

    Raises:
        OptimizationError: An activation is infinite or not a number, so that it has no range.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator
    from onnxruntime.quantization.calibrate import save_tensors_data

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        file = Path(folder) / "graph.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(graph), file)
        calibrator = create_calibrator(
            file,
            sorted(operators),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=methods[method],
            extra_options={"percentile": percentile, "symmetric": False} if method == "percentile" else {},
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of values that are not numbers, which are looked for below
                for batch in batches:  # one by one, since it keeps all activations of what it is given, and wants equal batches
                    calibrator.collect_data(_Batches([batch]))
                ranges = calibrator.compute_data()
        except ValueError as error:  # a histogram of infinities
            raise OptimizationError(f"an activation has no finite range on the calibration rows: {error}") from error
        unbounded = sorted(name for name, found in ranges.items() if not np.isfinite(found.range_value).all())
        if unbounded:
            raise OptimizationError(f"an activation has no finite range on the calibration rows: {', '.join(unbounded)}")
        save_tensors_data(ranges, save_to)


def activations(model: onnx.ModelProto, value: str, batches: Sequence[Mapping[str, Array]]) -> NDArray[np.float64]:
    """Return what a float value of a graph is on every row of the batches, all axes before the last one made one."""
    import onnxruntime as ort

    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    if value not in {output.name for output in observed.graph.output}:
        observed.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # so that sums do not depend on how many cores there are
    session = ort.InferenceSession(observed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = [session.run([value], dict(batch))[0] for batch in batches]
    return np.concatenate([array.reshape(-1, array.shape[-1]) for array in found]).astype(np.float64)


class _Batches:
    """What ONNX Runtime calls a CalibrationDataReader; that class asks for this one method."""

    def __init__(self, batches: Sequence[Mapping[str, Array]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._batches, None)


def _in_batches(inputs: Mapping[str, Array], rows: int) -> Iterator[dict[str, Array]]:
    count = min(rows, len(next(iter(inputs.values()), ())))
    for start in range(0, count, _BATCH_ROWS):
        yield {name: array[start : min(count, start + _BATCH_ROWS)] for name, array in inputs.items()}
