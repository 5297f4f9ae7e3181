"""Variant `int8-dynamic`: dense weights as 8-bit integers, activations quantized call by call; needs no calibration."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from tidegate.optimization.graphs.agreement import GoldenSample
from tidegate.optimization.graphs.reading import MATRIX_OPERATORS, named, why_without
from tidegate.optimization.variants.builder import BuiltGraph, Target, VariantBuilder, without_advice
from tidegate.optimization.variants.quantizing import quantize_what_holds
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime

_OPERATORS = MATRIX_OPERATORS | {"LSTM"}


@dataclass(frozen=True, slots=True)
class Int8Dynamic(VariantBuilder):
    """`reduce_range` uses 7 bits, so that CPUs without VNNI do not saturate and every CPU gives the same answer.

    Convolutions stay: their integer operator is slower than the float one on CPUs, and `int8-static` has a better. A layer
    whose quantization moves the golden sample's answers beyond the tolerances stays too.
    """

    name: ClassVar[str] = "int8-dynamic"
    precision: ClassVar[Precision] = "int8"
    complexity: ClassVar[int] = 40
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})
    per_channel: bool = True
    reduce_range: bool = True
    max_absolute: float = 0.05
    max_relative: float = 0.05
    max_flip_rate: float = 0.02
    max_trials: int = 24

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with dense layers."""
        return why_without(model, _OPERATORS, "to quantize")

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Quantize the weights of every dense layer that allows it."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        model = named(onnx.load(package / MODEL_NAME))
        del model.graph.value_info[:]  # PyTorch's exporter notes the shapes of weights, of which a Gemm's are transposed
        sample = GoldenSample.of_package(package, runtime, self)

        def quantize(excluded: Sequence[str]) -> bytes:
            with without_advice(), tempfile.TemporaryDirectory() as folder:
                quantized = Path(folder) / MODEL_NAME
                quantize_dynamic(
                    model,
                    quantized,
                    op_types_to_quantize=sorted(_OPERATORS),
                    nodes_to_exclude=list(excluded),
                    weight_type=QuantType.QInt8,
                    per_channel=self.per_channel,
                    reduce_range=self.reduce_range,
                )
                return quantized.read_bytes()

        return quantize_what_holds(model, _OPERATORS, quantize, sample, max_trials=self.max_trials)
