"""Variant `attention-fused`: the self-attention of transformers as one operator, and all else as in `graph-optimized`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx

from tidegate.optimization.graphs.attention import with_fused_attention
from tidegate.optimization.graphs.fused import optimized, runtime_of_optimized
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, Target, VariantBuilder
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime
from tidegate.packaging.onnx_graphs import every_node


@dataclass(frozen=True, slots=True)
class AttentionFused(VariantBuilder):
    """One product makes queries, keys and values, and no shape is worked out at run time.

    Heads are read from the graph, never guessed. Attention of one sequence to another, and with queries, keys and values from
    one dense layer, stays as it is.
    """

    name: ClassVar[str] = "attention-fused"
    precision: ClassVar[Precision] = "full"
    complexity: ClassVar[int] = 13
    targets: ClassVar[frozenset[Target]] = frozenset({"cpu"})

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies to graphs with a softmax between two products, which attention has."""
        operators = [node.op_type for node in every_node(model.graph)]
        if "Softmax" not in operators or operators.count("MatMul") < len(("queries", "keys", "values", "scores", "answers")):
            return "there is no attention in it"
        return None

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Fuse what is found in the graph without its idle nodes; raises NotApplicable if there is no attention."""
        basic = onnx.load_from_string(optimized(package / MODEL_NAME, runtime, "basic"))
        fused, blocks = with_fused_attention(basic)
        if not blocks:
            raise NotApplicable("no self-attention is recognized in it")
        graph = optimized(fused.SerializeToString(), runtime, "extended")
        note = "1 block of attention is one operator" if blocks == 1 else f"{blocks} blocks of attention are one operator each"
        return BuiltGraph(graph, runtime_of_optimized(graph, runtime), note=note)
