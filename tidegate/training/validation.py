"""Data validation: what a training set must satisfy before anything is trained on it, as verdicts with their numbers."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from tidegate.errors import DataError
from tidegate.packaging.format.manifest import Verdict
from tidegate.project import Project
from tidegate.training.training_set import SPLIT_COLUMN, model_input_columns


def validate_training_set(project: Project, table: pa.Table) -> list[Verdict]:
    """Hold a training set against the project's data gate and return every verdict, passed or not.

    Args:
        project: The project file; its `gates.data` holds the bounds.
        table: What `build_training_set` returned.

    Raises:
        DataError: `gates.data.max_null_share_of` names a column that the training set does not have.
    """
    inputs = model_input_columns(project, table)
    unknown = [name for name in project.gates.data.max_null_share_of if name not in inputs]
    if unknown:
        raise DataError(f"gates.data.max_null_share_of: no model input {unknown[0]!r}; inputs are {', '.join(inputs)}")
    return [
        _rows(project, table),
        *_labels(project, table),
        *_splits(project, table),
        _duplicates(project, table),
        *(_missing(project, table, name) for name in inputs),
        *_constants(table, inputs),
    ]


def _rows(project: Project, table: pa.Table) -> Verdict:
    least = project.gates.data.min_rows
    return Verdict(
        gate="data",
        subject="rows",
        measure="rows, at least",
        value=float(table.num_rows),
        bound=float(least),
        passed=table.num_rows >= least,
    )


def _labels(project: Project, table: pa.Table) -> Iterator[Verdict]:
    name = project.label.column
    label = table[name]
    foreign = table.num_rows - pc.sum(pc.is_in(label, value_set=pa.array([0, 1], type=label.type))).as_py()
    yield Verdict(
        gate="data",
        subject=name,
        measure="labels other than 0 and 1",
        value=float(foreign),
        bound=0.0,
        passed=foreign == 0,
    )
    rate = pc.mean(pc.equal(label, 1).cast(pa.float64())).as_py()
    lowest, highest = project.gates.data.label_rate
    yield Verdict(
        gate="data", subject=name, measure="share of class 1, at least", value=rate, bound=lowest, passed=rate >= lowest
    )
    yield Verdict(
        gate="data", subject=name, measure="share of class 1, at most", value=rate, bound=highest, passed=rate <= highest
    )


def _splits(project: Project, table: pa.Table) -> Iterator[Verdict]:
    for split in ("train", "holdout"):
        label = table[project.label.column].filter(pc.equal(table[SPLIT_COLUMN], split))
        ones = pc.sum(pc.equal(label, 1)).as_py() or 0
        rarer = min(ones, len(label) - ones)
        yield Verdict(
            gate="data",
            subject=split,
            measure="rows of the rarer class, at least",
            value=float(rarer),
            bound=1.0,
            passed=rarer >= 1,
            note="" if rarer else f"the {split} split holds {len(label)} rows of one class only",
        )


def _duplicates(project: Project, table: pa.Table) -> Verdict:
    name = project.features.id_column
    share = (table.num_rows - pc.count_distinct(table[name], mode="all").as_py()) / table.num_rows
    bound = project.gates.data.max_duplicate_share
    return Verdict(
        gate="data",
        subject=name,
        measure="share of rows whose id occurred before, at most",
        value=share,
        bound=bound,
        passed=share <= bound,
    )


def _missing(project: Project, table: pa.Table, name: str) -> Verdict:
    data = project.gates.data
    bound = data.max_null_share_of.get(name, data.max_null_share)
    share = pc.sum(pc.is_null(table[name], nan_is_null=True)).as_py() / table.num_rows
    return Verdict(gate="data", subject=name, measure="share missing, at most", value=share, bound=bound, passed=share <= bound)


def _constants(table: pa.Table, inputs: list[str]) -> Iterator[Verdict]:
    for name in inputs:
        if pc.count_distinct(table[name].drop_null()).as_py() <= 1:
            yield Verdict(
                gate="data",
                subject=name,
                measure="distinct values",
                value=1.0,
                bound=None,
                passed=True,
                note="constant: it tells the model nothing",
            )
