"""Variant `int8-static`: dense weights and activations as 8-bit integers, with ranges calibrated on real training rows."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from tidegate.optimization.variants.builder import BuiltGraph, Target, without_advice, without_dense_layers
from tidegate.packaging.golden import read_golden
from tidegate.packaging.manifest import GOLDEN_NAME, MODEL_NAME, Precision, Runtime, Scalar


@dataclass(frozen=True, slots=True)
class Int8Static:
    """The golden sample, training rows and range ends, is what the ranges (least and greatest) are calibrated on."""

    name: ClassVar[str] = "int8-static"
    precision: ClassVar[Precision] = "int8"
    complexity: ClassVar[int] = 50
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu", "cuda", "tensorrt"})
    per_channel: bool = True
    reduce_range: bool = True

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return the one setting."""
        return {cls.name: cls()}

    @property
    def parameters(self) -> dict[str, Scalar]:
        """The parameters, as recorded in the package."""
        return asdict(self)

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with dense layers."""
        return without_dense_layers(model)

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Observe the activations of the golden sample, then quantize every dense layer."""
        with without_advice(), tempfile.TemporaryDirectory() as folder:
            quantized = Path(folder) / MODEL_NAME
            quantize_static(
                package / MODEL_NAME,
                quantized,
                _GoldenRows(package / GOLDEN_NAME),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["MatMul", "Gemm"],
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
                calibrate_method=CalibrationMethod.MinMax,
            )
            return BuiltGraph(quantized.read_bytes(), runtime)


class _GoldenRows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, golden: Path) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = iter([read_golden(golden).inputs])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)
