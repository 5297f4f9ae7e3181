"""What a case of the benchmark is: a trained model, its package, its plain ONNX graph, and rows to ask about."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tidegate.packaging.format.manifest import Manifest
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.packager import Examples, PackageSettings, package_model
from tidegate.packaging.sources.source import Source

Feeds = Mapping[str, NDArray[Any]]
Own = Callable[[Feeds], Callable[[], object]]

PACKAGE, GRAPH, ROWS, HOLDOUT = "package", "graph.onnx", "rows.npz", "holdout.parquet"
_ROWS_ASKED = 1_024
_EXAMPLES = 4


class Case(Protocol):
    """A model to optimize.

    Attributes:
        name: Of the case.
        framework: Of the source model.
        label_column: Of the holdout; None if accuracy is not judged.
        bert: Hidden size and attention heads, which Olive's transformer fusions ask for; None for other models.
    """

    name: str
    framework: str
    label_column: str | None
    bert: tuple[int, int] | None

    def prepare(self, folder: Path) -> None:
        """Train the model and write, by `write_case`, everything that is measured."""

    def own(self, folder: Path) -> Own:
        """Return how the framework itself answers: for feeds, a call whose inputs are made ready before it."""


def write_case(folder: Path, source: Source, training: pa.Table, holdout: pa.Table, label_column: str | None) -> None:
    """Write a model's package, its graph as its converter makes it, rows to ask about, and the holdout."""
    inputs = tuple(source.columns) or tuple(name for name in training.column_names if name != label_column)
    examples = Examples(training=training, reference=holdout, label_column=label_column)
    settings = PackageSettings(name="benchmark", request_inputs=inputs)
    manifest = package_model(source, candidate="model", examples=examples, settings=settings, out=folder / PACKAGE)
    asked = input_arrays(holdout.slice(0, _ROWS_ASKED), manifest.signature.inputs)
    onnx.save(_plain_graph(source, manifest, asked), folder / GRAPH)
    texts = {name: array.astype("U") if array.dtype == object else array for name, array in asked.items()}
    np.savez(folder / ROWS, **texts)
    pq.write_table(holdout, folder / HOLDOUT)


def read_rows(folder: Path) -> dict[str, NDArray[Any]]:
    """Read the rows that `write_case` wrote, in the signature's shapes, texts as objects."""
    with np.load(folder / ROWS, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in arrays.items()}


def _plain_graph(source: Source, manifest: Manifest, asked: Feeds) -> onnx.ModelProto:
    return source.to_onnx(manifest.signature.inputs, {name: array[:_EXAMPLES] for name, array in asked.items()})
