"""Variants `tensorrt…`: ONNX Runtime's TensorRT provider, in single, half and 8-bit precision, each with its engine built.

The engine is built once, for every shape from one row to the largest batch, and embedded in `engine.onnx`, so that serving on
the same kind of GPU starts without a build.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import onnx

from tidegate.optimization.engines import EngineBuilder
from tidegate.optimization.graphs.calibration import calibration_batches
from tidegate.optimization.graphs.reading import CONVOLUTIONS, MATRIX_OPERATORS, why_without
from tidegate.optimization.variants.builder import without_advice
from tidegate.packaging.format.manifest import MODEL_NAME, Precision

_QUANTIZED = sorted(CONVOLUTIONS | MATRIX_OPERATORS)


@dataclass(frozen=True, slots=True)
class TensorRt(EngineBuilder):
    """Single precision as TensorRT understands it: products in TF32 where the GPU has it; its provider cannot turn that off."""

    name: ClassVar[str] = "tensorrt"
    precision: ClassVar[Precision] = "half"
    complexity: ClassVar[int] = 60
    options: ClassVar[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class TensorRtFp16(EngineBuilder):
    """Half precision wherever TensorRT finds it faster, but not in layer normalization, where it overflows."""

    name: ClassVar[str] = "tensorrt-fp16"
    precision: ClassVar[Precision] = "half"
    complexity: ClassVar[int] = 62
    options: ClassVar[Mapping[str, str]] = {"trt_fp16_enable": "True", "trt_layer_norm_fp32_fallback": "True"}


@dataclass(frozen=True, slots=True)
class TensorRtInt8(EngineBuilder):
    """8-bit integers with the ranges of real rows written into the graph (QDQ), half precision elsewhere.

    Such a graph needs no calibration table, and TensorRT takes none beside it. It wants weights and activations that are
    symmetric around zero, and biases as they are.
    """

    name: ClassVar[str] = "tensorrt-int8"
    precision: ClassVar[Precision] = "int8"
    complexity: ClassVar[int] = 64
    options: ClassVar[Mapping[str, str]] = {"trt_int8_enable": "True", "trt_fp16_enable": "True"}
    calibration_rows: int = 512

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies where TensorRT is, to models with dense layers that it can run whole."""
        return EngineBuilder.applies(self, model) or why_without(model, _QUANTIZED, "to quantize")

    def graph(self, package: Path) -> bytes:
        """Observe the activations of real rows, and write their ranges around every dense layer."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        batches = iter(calibration_batches(package, rows=self.calibration_rows))
        reader = SimpleNamespace(get_next=lambda: next(batches, None))
        with without_advice(), tempfile.TemporaryDirectory() as folder:
            quantized = Path(folder) / MODEL_NAME
            quantize_static(
                package / MODEL_NAME,
                quantized,
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_QUANTIZED,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "DedicatedQDQPair": True,
                },
            )
            return quantized.read_bytes()
