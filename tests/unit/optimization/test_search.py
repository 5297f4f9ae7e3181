import shutil
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.errors import DataError, OptimizationError, PackageError
from tidegate.optimization.records import Selection
from tidegate.optimization.search import build_variant, select, select_variant, variant_names
from tidegate.packaging.package import read_manifest, verify_package
from tidegate.project import GatesSection, Project, load_project

PROJECT = """
schema_version: 1
name: tiny
task: binary-classification
features: {repository: ., service: s, entity_rows: r.parquet, id_column: id, request_inputs: [carrier]}
label: {column: label, known_at_column: known_at}
training: {function: "train:train", window_days: 10, holdout_days: 2}
gates:
  accuracy: {minimum: 0.6, max_loss: 0.05}
  benchmark: {rounds: 6, calls_per_round: 10, batch_sizes: [1, 16]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return _project(tmp_path, PROJECT)


def _project(folder: Path, text: str) -> Project:
    (folder / "tidegate.yaml").write_text(text)
    return load_project(folder / "tidegate.yaml")


@pytest.fixture(scope="module")
def built(candidates, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("built")
    names = [f"{candidate}/{variant}" for candidate in ("mlp", "trees") for variant in ("graph-optimized", "int8-dynamic")]
    for name in names:
        build_variant(candidates.packages, name, folder / name)
    return [folder / name for name in names]


def test_every_variant_of_every_candidate_is_named(candidates, project: Project) -> None:
    assert variant_names(project, candidates.packages) == [
        f"{candidate}/{variant}"
        for candidate in ("mlp", "trees")
        for variant in ("graph-optimized", "fp16", "int8-dynamic", "int8-static")
    ]


def test_the_project_may_ask_for_some_variants_only(candidates, tmp_path: Path) -> None:
    assert variant_names(_project(tmp_path, PROJECT + "  variants: [fp16]\n"), candidates.packages) == [
        "mlp/fp16",
        "trees/fp16",
    ]


def test_an_unknown_variant_in_the_project_is_refused(candidates, tmp_path: Path) -> None:
    with pytest.raises(OptimizationError, match="variant 'fp17' is unknown"):
        variant_names(_project(tmp_path, PROJECT + "  variants: [fp17]\n"), candidates.packages)


def test_no_packages_is_an_error(project: Project, tmp_path: Path) -> None:
    with pytest.raises(OptimizationError, match="package first"):
        variant_names(project, tmp_path / "none")


def test_a_whole_selection(candidates, project: Project, built: list[Path], tmp_path: Path) -> None:
    pq.write_table(candidates.holdout, tmp_path / "training_set.parquet")

    selection = select_variant(project, candidates.packages, built, tmp_path / "training_set.parquet", tmp_path / "out")

    assert msgspec.json.decode((tmp_path / "out" / "selection.json").read_bytes(), type=Selection) == selection
    assert [row.name for row in selection.rows] == [
        "mlp/baseline", "mlp/graph-optimized", "mlp/int8-dynamic", "trees/baseline", "trees/graph-optimized",
        "trees/int8-dynamic",
    ]  # fmt: skip
    assert selection.row("trees/int8-dynamic").status == "not-applicable"
    assert "tree ensemble" in selection.row("trees/int8-dynamic").reason
    assert all(row.reason for row in selection.rows)
    assert selection.winner is not None
    winner = verify_package(tmp_path / "out" / "package")
    assert f"{winner.variant.candidate}/{winner.variant.name}" == selection.winner
    assert {verdict.gate for verdict in winner.verdicts} == {"parity", "accuracy", "benchmark"}
    assert all(verdict.passed and verdict.subject == selection.winner for verdict in winner.verdicts)
    assert {row.variant for row in winner.benchmark} == {row.name for row in selection.rows if row.benchmark}
    assert winner.metrics["roc_auc"] == pytest.approx(selection.row(selection.winner).auc)
    assert winner.metrics["holdout_rows"] == 300


def test_a_candidate_that_is_clearly_worse_loses_however_fast(
    candidates, built: list[Path], gates: GatesSection, tmp_path: Path
) -> None:
    strict = gates.model_copy(update={"accuracy": gates.accuracy.model_copy(update={"max_loss": 0.0001})})
    baselines = [candidates.packages / "mlp", candidates.packages / "trees"]

    selection = select(strict, baselines, [], candidates.holdout, tmp_path, label_column="label", seed=0)

    by_auc = sorted(selection.rows, key=lambda row: row.auc or 0)
    assert selection.winner == by_auc[-1].name
    assert by_auc[0].status == "failed"
    assert "loss to the best survivor" in by_auc[0].reason


def test_the_wrong_export_never_wins(candidates, gates: GatesSection, tmp_path: Path) -> None:
    wrong = candidates.packages.parent / "odd" / "wrong"

    selection = select(gates, [wrong], [], candidates.holdout, tmp_path, label_column="label", seed=0)

    assert selection.winner is None
    assert selection.rows[0].reason.startswith("parity: largest absolute difference")
    assert selection.rows[0].benchmark == (), "what failed is not timed"
    assert selection.reasons == (f"wrong/baseline: {selection.rows[0].reason}",)
    assert not (tmp_path / "package").exists()


def test_a_selection_without_winner_removes_an_earlier_winner(candidates, gates: GatesSection, tmp_path: Path) -> None:
    shutil.copytree(candidates.packages / "mlp", tmp_path / "package")
    impossible = gates.model_copy(update={"accuracy": gates.accuracy.model_copy(update={"minimum": 0.999})})

    selection = select(
        impossible, [candidates.packages / "mlp"], [], candidates.holdout, tmp_path, label_column="label", seed=0
    )

    assert selection.winner is None
    assert not (tmp_path / "package").exists()


def test_without_labels_accuracy_is_not_judged_and_says_so(candidates, gates: GatesSection, tmp_path: Path) -> None:
    selection = select(gates, [candidates.packages / "mlp"], [], candidates.holdout, tmp_path, label_column=None, seed=0)

    assert selection.winner == "mlp/baseline"
    assert any("not judged" in verdict.note for verdict in selection.verdicts)
    assert "roc_auc" not in read_manifest(tmp_path / "package").metrics


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda t: t.slice(0, 0), "the holdout holds no rows", id="empty"),
        pytest.param(lambda t: t.drop_columns("hour"), "column 'hour' is missing", id="missing column"),
        pytest.param(lambda t: t.drop_columns("label"), "label column 'label' is missing", id="missing label"),
        pytest.param(
            lambda t: t.set_column(t.column_names.index("hour"), "hour", pa.array(["noon"] * t.num_rows)),
            "column 'hour' has type string, which cannot be read as FP32", id="wrong dtype",
        ),
        pytest.param(
            lambda t: t.set_column(t.column_names.index("label"), "label", pa.array([1] * t.num_rows)),
            "0 of class 0", id="one class",
        ),
    ],
)  # fmt: skip
def test_a_bad_holdout_is_named_and_nothing_is_written(
    candidates, gates: GatesSection, tmp_path: Path, change, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        select(
            gates, [candidates.packages / "mlp"], [], change(candidates.holdout), tmp_path / "out", label_column="label", seed=0
        )

    assert not (tmp_path / "out").exists()


def test_a_training_set_without_split_is_refused(candidates, project: Project, tmp_path: Path) -> None:
    pq.write_table(candidates.holdout.drop_columns("split"), tmp_path / "t.parquet")

    with pytest.raises(DataError, match="column 'split' is missing"):
        select_variant(project, candidates.packages, [], tmp_path / "t.parquet", tmp_path / "out")


def test_a_corrupted_variant_is_refused(candidates, built: list[Path], gates: GatesSection, tmp_path: Path) -> None:
    broken = shutil.copytree(built[0], tmp_path / "broken")
    (broken / "package" / "model.onnx").write_bytes(b"")

    with pytest.raises(PackageError, match=r"model\.onnx has 0 bytes"):
        select(
            gates, [candidates.packages / "mlp"], [broken], candidates.holdout, tmp_path / "out", label_column="label", seed=0
        )
