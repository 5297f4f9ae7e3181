"""The reference holds rows that the model was not trained on, its answers, and labels as the task numbers them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tidegate.errors import DataError
from tidegate.packaging import holdout
from tidegate.packaging.format.manifest import SourceFacts, TensorSpec
from tidegate.packaging.holdout import reference_table

INPUTS = (TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),)


class Doubling:
    """Answers with twice its input; counts the rows that it is asked for at once."""

    facts, columns = SourceFacts(framework="none", version="0", kind="Doubling"), ()

    def __init__(self, task: str, classes: tuple[str, ...] = ()) -> None:
        self.task, self.classes = task, classes
        self.asked: list[int] = []

    def predict(self, inputs: Any) -> dict[str, np.ndarray]:
        self.asked.append(len(inputs["x"]))
        return {"twice": inputs["x"][:, 0] * 2}


def reference_of(rows: pa.Table, source: Doubling, *, label: str | None = "y", classes: tuple[str, ...] = ()) -> pa.Table:
    return reference_table(source, rows, INPUTS, label_column=label, classes=classes, answer_bytes=4, seed=0)


def test_rows_are_answered_in_parts() -> None:
    source, rows = Doubling("regression"), pa.table({"x": np.arange(5_000.0), "y": np.arange(5_000.0)})

    reference = reference_of(rows, source)

    assert reference.column_names == ["x", "twice", "label"]
    np.testing.assert_array_equal(reference["twice"], np.arange(5_000.0) * 2)
    assert max(source.asked) < 5_000


def test_rows_are_kept_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdout, "_BYTES", 12 * 100)

    assert reference_of(pa.table({"x": np.arange(5_000.0), "y": np.arange(5_000.0)}), Doubling("regression")).num_rows == 100


@pytest.mark.parametrize(
    ("labels", "task", "known", "classes", "numbers"),
    [
        pytest.param([0, 1, None], "binary-classification", (), ("no", "yes"), [0, 1, None], id="numbers"),
        pytest.param([True, False, None], "binary-classification", (), ("no", "yes"), [1, 0, None], id="flags"),
        pytest.param(["yes", "no", None], "binary-classification", (), ("no", "yes"), [1, 0, None], id="names it is given"),
        pytest.param(["b", "a", None], "binary-classification", ("a", "b"), ("no", "yes"), [1, 0, None], id="names it knows"),
        pytest.param([7, 5, 6], "multiclass-classification", ("5", "6", "7"), ("5", "6", "7"), [2, 0, 1], id="other numbers"),
        pytest.param([1.5, None, 2], "regression", (), (), [1.5, None, 2.0], id="targets"),
        pytest.param([3, 4, None], "regression", (), (), [3.0, 4.0, None], id="whole targets"),
    ],
)
def test_labels_become_numbers(
    labels: list, task: str, known: tuple[str, ...], classes: tuple[str, ...], numbers: list
) -> None:
    rows = pa.table({"x": [1.0, 2.0, 3.0], "y": labels})

    assert reference_of(rows, Doubling(task, known), classes=classes)["label"].to_pylist() == numbers


def test_without_a_label_column_all_are_unknown() -> None:
    assert reference_of(pa.table({"x": [1.0]}), Doubling("regression"), label=None)["label"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        pytest.param(pa.table({"x": pa.array([], pa.float32()), "y": pa.array([], pa.int8())}), "holds no rows", id="no rows"),
        pytest.param(pa.table({"z": [1.0], "y": [1]}), "'x' is missing in the holdout", id="no input"),
        pytest.param(pa.table({"x": [1.0]}), "label column 'y' is missing", id="no label"),
        pytest.param(pa.table({"x": [1.0], "y": [2]}), "holds class 2; the model's are 0 to 1", id="a class too many"),
        pytest.param(pa.table({"x": [1.0], "y": [-1]}), "holds class -1; the model's are 0 to 1", id="a class below"),
        pytest.param(pa.table({"x": [1.0], "y": ["so"]}), "holds 'so', which is none of the classes no, yes", id="a name"),
        pytest.param(pa.table({"x": [1.0], "y": [0.5]}), "type double; class numbers", id="a share"),
    ],
)
def test_rows_without_what_a_reference_needs_are_refused(rows: pa.Table, said: str) -> None:
    with pytest.raises(DataError, match=said):
        reference_of(rows, Doubling("binary-classification"), classes=("no", "yes"))
