"""Batch scoring: every example of a window, from point-in-time features, by the package that also serves online.

batch/<project>/version=<n>/<start>_<end>.parquet
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.errors import DataError, RegistryError
from tidegate.packaging.inputs import tensor_column
from tidegate.packaging.labels import Labels
from tidegate.project import Project
from tidegate.registry.registry import ModelRegistry
from tidegate.release.data import open_repository
from tidegate.storage import open_store
from tidegate.training.training_set import join_window, model_input_columns


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """What a batch run wrote: `rows` predictions of `version`, at `uri`."""

    rows: int
    version: int
    uri: str


def score_window(project: Project, *, start: datetime, end: datetime, alias: str, out: Path) -> ScoredWindow:
    """Score every example in [start, end) and write id, timestamp, inputs, outputs and `class` as Parquet.

    A binary classification has one output, `probability`; only a classification has a class.

    The file is written to `out` and to the object store, whole or not at all; scoring the same window again replaces it.

    Args:
        project: The project file.
        start: First event time, with a time zone.
        end: Event time before which the window ends.
        alias: Which version scores, such as `champion`.
        out: A local file.

    Raises:
        RegistryError: No version has this alias.
        DataError: The window is empty, or turned around, or a model input is missing.
    """
    if not start < end:
        raise DataError(f"window: start {start.isoformat()} must lie before end {end.isoformat()}")
    from tidegate.packaging.running.inference import PackageModel

    store = open_store(project.store_uri)
    registry = ModelRegistry(store)
    holder = registry.alias(project.name, alias)
    if holder is None:
        raise RegistryError(f"model {project.name!r} has no alias {alias!r}; release a version first")
    examples = join_window(project, open_repository(project), start, end)
    with TemporaryDirectory() as workdir:
        model = PackageModel(registry.download(project.name, holder.version, Path(workdir) / "package"))
    outputs = model.outputs(examples)
    labels = Labels(model.manifest)
    scored = examples.select(
        [project.features.id_column, project.features.timestamp_column, *model_input_columns(project, examples)]
    )
    for name, array in outputs.items():
        scored = scored.append_column(name, tensor_column(array))
    if labels.exist:
        scored = scored.append_column("class", pa.array(labels.of(outputs).tolist(), pa.string()))
    pq.write_table(scored, out, compression="zstd")
    key = f"batch/{project.name}/version={holder.version}/{_stamp(start)}_{_stamp(end)}.parquet"
    store.upload(key, out)
    return ScoredWindow(rows=scored.num_rows, version=holder.version, uri=f"{store.uri}/{key}")


def read_moment(name: str, text: str) -> datetime:
    """Read a limit of a window; raises DataError if it is no time with a zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise DataError(f"{name} {text!r} is not a time with a zone; give one such as 2013-02-01T00:00:00+00:00")
    return moment


def _stamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%S}Z"
