"""Variant `fp16`: dense layers in half precision; inputs, preprocessing and the output stay in single precision."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

import onnx
from onnxconverter_common import float16

from tidegate.optimization.variants.builder import BuiltGraph, Target, without_dense_layers
from tidegate.packaging.manifest import MODEL_NAME, Precision, Runtime, Scalar

_HALVED = frozenset({"MatMul", "Gemm", "Add", "Relu", "Tanh", "LeakyRelu"})


@dataclass(frozen=True, slots=True)
class Fp16:
    """Weights smaller than `min_positive` or larger than `max_finite` are clipped to them, since half precision ends there."""

    name: ClassVar[str] = "fp16"
    precision: ClassVar[Precision] = "half"
    complexity: ClassVar[int] = 30
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu", "cuda", "tensorrt"})
    min_positive: float = 1e-7
    max_finite: float = 1e4

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
        """Convert the dense layers, with casts around everything that stays."""
        model = onnx.load(package / MODEL_NAME)
        kept = [node.name for node in model.graph.node if node.op_type not in _HALVED]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns once for every clipped weight
            halved = float16.convert_float_to_float16(
                model,
                min_positive_val=self.min_positive,
                max_finite_val=self.max_finite,
                keep_io_types=True,
                node_block_list=kept,
            )
        return BuiltGraph(halved.SerializeToString(), runtime)
