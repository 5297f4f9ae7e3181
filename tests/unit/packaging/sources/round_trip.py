"""Takes a source through what packaging does with it: accept a sample, predict, convert, and run the graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa

from tidegate.packaging.format.manifest import TensorSpec
from tidegate.packaging.inputs import input_arrays, tensor_column
from tidegate.packaging.signature import infer_inputs, output_specs
from tidegate.packaging.sources.source import Array, Source


@dataclass(frozen=True)
class Trip:
    """What became of a source: its accepted inputs, its graph, and the rows in the signature's shapes."""

    source: Source
    inputs: tuple[TensorSpec, ...]
    arrays: dict[str, Array]
    graph: onnx.ModelProto

    @property
    def by_name(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self.inputs}

    @property
    def outputs(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {spec.name: (spec.datatype, spec.shape) for spec in output_specs(self.graph)}

    def assert_agrees(self, *, rows: Sequence[int] = (1, 3), arrays: Mapping[str, Array] | None = None) -> None:
        """The graph answers as the source does: all rows in one batch, and the first few in batches of these sizes."""
        arrays = self.arrays if arrays is None else dict(arrays)
        session = ort.InferenceSession(self.graph.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        for count in (len(next(iter(arrays.values()))), *rows):
            batch = {name: array[:count] for name, array in arrays.items()}
            expected, found = self.source.predict(batch), dict(zip(names, session.run(None, batch), strict=True))
            assert list(found) == list(expected)
            for name, array in expected.items():
                assert found[name].dtype == array.dtype
                np.testing.assert_allclose(found[name], array, atol=1e-5, rtol=1e-4, err_msg=f"{name}, {count} rows")


def accepted(source: Source, arrays: Mapping[str, Array]) -> tuple[tuple[TensorSpec, ...], dict[str, Array]]:
    """The inputs as the source accepts them, and a sample of them in those shapes."""
    table = pa.table({name: tensor_column(array) for name, array in arrays.items()})
    inputs = source.accept(infer_inputs(table, source.columns or tuple(table.column_names), None))
    return inputs, input_arrays(table, inputs)


def round_trip(source: Source, arrays: Mapping[str, Array]) -> Trip:
    """Convert a source, with the given arrays as its sample."""
    inputs, rows = accepted(source, arrays)
    graph = source.to_onnx(inputs, {name: array[:4] for name, array in rows.items()})
    onnx.checker.check_model(graph)
    assert [value.name for value in graph.graph.input] == [spec.name for spec in inputs]
    return Trip(source, inputs, rows, graph)
