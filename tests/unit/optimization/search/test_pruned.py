"""What pruning costs is decided by the accuracy gate where there are labels, and by parity where there are none."""

from pathlib import Path

import pytest

from tidegate.optimization.isolation.workers import Limits
from tidegate.optimization.records import BuildOutcome, Selection
from tidegate.optimization.search.question import Question
from tidegate.optimization.search.search import build_variant, select
from tidegate.project import GatesSection, ParityGate, Tolerance


@pytest.fixture(scope="module")
def pruned(candidates, tmp_path_factory: pytest.TempPathFactory) -> tuple[BuildOutcome, Path]:
    package = tmp_path_factory.mktemp("pruned") / "pruned-50"
    return build_variant(candidates.packages, "mlp/pruned-50", package), package


def selection_of(
    candidates, pruned: tuple[BuildOutcome, Path], gates: GatesSection, label_column: str | None, out: Path
) -> Selection:
    question = Question(gates=gates, holdout=candidates.holdout, label_column=label_column, seed=0, limits=Limits(seconds=60))
    return select(question, [candidates.packages / "mlp"], [pruned], out)


def test_with_labels_the_accuracy_of_pruned_weights_is_measured_and_judged(candidates, pruned, gates, tmp_path: Path) -> None:
    anywhere = ParityGate(pruned=Tolerance(max_absolute=1, max_relative=0, max_flip_rate=0.5))

    row = selection_of(candidates, pruned, gates.model_copy(update={"parity": anywhere}), "label", tmp_path).row(
        "mlp/pruned-50"
    )

    parity = [verdict for verdict in row.verdicts if verdict.gate == "parity"]
    assert all(verdict.passed for verdict in parity), parity
    assert all("pruned precision" in verdict.note for verdict in parity)
    assert row.accuracy is not None
    assert {verdict.measure for verdict in row.verdicts if verdict.gate == "accuracy"} >= {"roc_auc"}


def test_without_labels_pruned_weights_must_answer_as_8_bits_do(candidates, pruned, gates, tmp_path: Path) -> None:
    row = selection_of(candidates, pruned, gates, None, tmp_path).row("mlp/pruned-50")

    assert row.status == "failed"
    assert row.reason.startswith("parity: ")
    assert "int8 precision" in row.verdicts[0].note
    assert row.accuracy is None
