from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tidegate.errors import DataError
from tidegate.optimization.gates.champion import compare_with_champion
from tidegate.packaging.running.inference import PackageModel
from tidegate.project import AccuracyGate, ChampionGate


def project(metric: Any = "roc_auc", *, threshold: float = 0.5, **gate: float) -> SimpleNamespace:
    """Only what the gate reads of a project."""
    return SimpleNamespace(
        task="binary-classification",
        gates=SimpleNamespace(champion=ChampionGate(**gate), accuracy=AccuracyGate(metric=metric)),
        label=SimpleNamespace(column="label"),
        serving=SimpleNamespace(threshold=threshold),
    )


def relabelled(rows: pa.Table, labels: list[int | None]) -> pa.Table:
    return rows.set_column(rows.column_names.index("label"), "label", pa.array(labels, pa.int8()))


@pytest.fixture
def packages(candidates) -> Path:
    return candidates.packages


def test_without_a_champion_the_gate_passes_and_says_so(candidates, packages: Path) -> None:
    verdict = compare_with_champion(project(), packages / "mlp", None, candidates.holdout)

    assert (verdict.passed, verdict.value, verdict.subject) == (True, None, "mlp/baseline")
    assert "no champion" in verdict.note


def test_a_package_against_itself_loses_nothing(candidates, packages: Path) -> None:
    verdict = compare_with_champion(
        project(min_rows=100, max_loss=0.001), packages / "mlp", packages / "mlp", candidates.holdout
    )

    assert verdict.passed
    assert verdict.value == pytest.approx(0, abs=1e-7)


@pytest.fixture
def recent(candidates, packages: Path) -> pa.Table:
    """Rows whose labels are what the trees answer, nine times of ten: on these the trees are better than the MLP."""
    scores = PackageModel(packages / "trees").predict(candidates.holdout)
    answers = (scores > np.median(scores)).astype(int)
    answers[::10] = 1 - answers[::10]
    return relabelled(candidates.holdout, answers.tolist())


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        pytest.param("roc_auc", "roc_auc loss to the champion, upper 90% bound", id="roc_auc"),
        pytest.param("accuracy", "accuracy loss to the champion, upper 90% bound", id="accuracy"),
        pytest.param("log_loss", "log_loss loss to the champion as a share of it, upper 90% bound", id="log_loss"),
    ],
)
def test_a_better_challenger_passes_and_the_worse_does_not(packages: Path, recent: pa.Table, metric: Any, says: str) -> None:
    wanted = project(metric, min_rows=100, threshold=float(np.median(PackageModel(packages / "trees").predict(recent))))

    better = compare_with_champion(wanted, packages / "trees", packages / "mlp", recent)
    worse = compare_with_champion(wanted, packages / "mlp", packages / "trees", recent)

    assert better.measure == says
    assert (better.passed, worse.passed) == (True, False)
    assert better.value is not None
    assert worse.value is not None
    assert better.value < 0 < worse.value
    assert "on 300 labelled rows" in worse.note


def test_a_difference_that_is_not_proven_does_not_pass(candidates, packages: Path) -> None:
    rng = np.random.default_rng(0)
    recent = relabelled(candidates.holdout, rng.integers(0, 2, 300).tolist())

    verdicts = [
        compare_with_champion(project(min_rows=100), packages / one, packages / other, recent)
        for one, other in (("mlp", "trees"), ("trees", "mlp"))
    ]

    assert not all(verdict.passed for verdict in verdicts)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        pytest.param([1] * 50 + [0] * 49 + [None] * 201, "99 labelled rows, at least 100 are needed", id="too few labels"),
        pytest.param([1] * 300, "there are 300 of class 1 and 0 of class 0", id="one class"),
        pytest.param([None] * 300, "0 labelled rows", id="no label known yet"),
    ],
)
def test_what_cannot_decide_fails_with_a_note(candidates, packages: Path, labels: list[int | None], said: str) -> None:
    verdict = compare_with_champion(
        project(min_rows=100), packages / "mlp", packages / "trees", relabelled(candidates.holdout, labels)
    )

    assert (verdict.passed, verdict.value) == (False, None)
    assert said in verdict.note


def test_a_missing_input_is_named(candidates, packages: Path) -> None:
    with pytest.raises(DataError, match="column 'hour' is missing"):
        compare_with_champion(
            project(min_rows=100), packages / "mlp", packages / "trees", candidates.holdout.drop_columns("hour")
        )
