"""Variant `int8-dynamic`: dense weights as 8-bit integers, activations quantized call by call; needs no calibration."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from tidegate.optimization.variants.builder import BuiltGraph, Target, without_advice, without_dense_layers
from tidegate.packaging.manifest import MODEL_NAME, Precision, Runtime, Scalar


@dataclass(frozen=True, slots=True)
class Int8Dynamic:
    """`reduce_range` uses 7 bits, so that CPUs without VNNI do not saturate and every CPU gives the same answer."""

    name: ClassVar[str] = "int8-dynamic"
    precision: ClassVar[Precision] = "int8"
    complexity: ClassVar[int] = 40
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
        """Quantize the weights of every dense layer."""
        with without_advice(), tempfile.TemporaryDirectory() as folder:
            quantized = Path(folder) / MODEL_NAME
            quantize_dynamic(
                package / MODEL_NAME,
                quantized,
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=QuantType.QInt8,
                per_channel=self.per_channel,
                reduce_range=self.reduce_range,
            )
            return BuiltGraph(quantized.read_bytes(), runtime)
