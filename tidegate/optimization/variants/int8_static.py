"""Variants `int8-static-…`: dense weights and activations as 8-bit integers, with ranges calibrated on the package's rows."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx

from tidegate.optimization.graphs.agreement import GoldenSample
from tidegate.optimization.graphs.calibration import Method, calibration_batches, observe_ranges
from tidegate.optimization.graphs.fused import optimized
from tidegate.optimization.graphs.reading import CONVOLUTIONS, MATRIX_OPERATORS, named, opset, why_without
from tidegate.optimization.variants.builder import BuiltGraph, Target, VariantBuilder, without_advice
from tidegate.optimization.variants.quantizing import quantize_what_holds
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime

_LAYERS = MATRIX_OPERATORS | CONVOLUTIONS
# Between quantized layers these take 8-bit values as they are, so that nothing is converted back and forth.
_PASSING = frozenset({"Relu", "Clip", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"})
_PER_CHANNEL_OPSET = 13


@dataclass(frozen=True, slots=True)
class Int8Static(VariantBuilder):
    """The golden sample and rows of the reference, `rows` in all, are what the ranges are calibrated on.

    The settings differ in how a range follows from the values seen: their least and greatest, all but the rarest (`percentile`
    of them), or the range that keeps most information (`entropy`). `reduce_range` uses 7 bits, so that CPUs without VNNI do not
    saturate and every CPU gives the same answer. A layer whose quantization moves the golden sample's answers beyond
    the tolerances stays in single precision.
    """

    name: ClassVar[str] = "int8-static"
    precision: ClassVar[Precision] = "int8"
    complexity: ClassVar[int] = 50
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    calibration: Method = "minmax"
    percentile: float = 99.9
    rows: int = 512
    per_channel: bool = True
    reduce_range: bool = True
    max_absolute: float = 0.05
    max_relative: float = 0.05
    max_flip_rate: float = 0.02
    max_trials: int = 24

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return one setting for each calibration method."""
        methods: tuple[Method, ...] = ("minmax", "entropy", "percentile")
        return {f"{cls.name}-{method}": cls(method) for method in methods}

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with dense layers or convolutions, of a version that can quantize by channel."""
        if self.per_channel and opset(model) < _PER_CHANNEL_OPSET:
            return f"its opset is {opset(model)}; quantizing by channel needs {_PER_CHANNEL_OPSET}: export it again"
        return why_without(model, _LAYERS, "to quantize")

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Observe the activations once, then quantize every layer that allows it."""
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        methods = {
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }
        # Folding first joins what is quantized as one: a convolution with its normalization, a product with its bias.
        model = named(onnx.load_from_string(optimized(package / MODEL_NAME, runtime, "basic")))
        sample = GoldenSample.of_package(package, runtime, self)
        with without_advice(), tempfile.TemporaryDirectory() as folder:
            ranges, quantized = Path(folder) / "ranges.json", Path(folder) / MODEL_NAME
            batches = calibration_batches(package, rows=self.rows)
            operators = _LAYERS | _PASSING
            observe_ranges(model, batches, operators, method=self.calibration, percentile=self.percentile, save_to=ranges)

            def quantize(excluded: Sequence[str]) -> bytes:
                quantize_static(
                    model,
                    quantized,
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=sorted(operators),
                    nodes_to_exclude=list(excluded),
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    per_channel=self.per_channel,
                    reduce_range=self.reduce_range,
                    calibrate_method=methods[self.calibration],
                    calibration_cache_path=ranges,
                )
                return quantized.read_bytes()

            return quantize_what_holds(model, _LAYERS, quantize, sample, max_trials=self.max_trials)
