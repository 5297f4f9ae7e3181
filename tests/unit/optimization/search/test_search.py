"""The search: what is built, judged, timed and selected; what is written; and what an interrupted search leaves."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.errors import DataError, OptimizationError, PackageError
from tidegate.optimization.isolation.workers import Limits
from tidegate.optimization.records import Selection
from tidegate.optimization.search import build
from tidegate.optimization.search.build import read_outcome
from tidegate.optimization.search.question import Question
from tidegate.optimization.search.search import build_variant, optimize, select, select_variant, variants_to_build
from tidegate.optimization.search.state import SearchState
from tidegate.packaging.format.golden import Golden, read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, MODEL_NAME, REFERENCE_NAME
from tidegate.packaging.format.package import read_manifest, verify_package, write_package
from tidegate.project import AccuracyGate, GatesSection, Project, load_project

VARIANTS = ("graph-optimized", "fp16", "int8-dynamic")
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
  variants: [graph-optimized, fp16, int8-dynamic]
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
    names = ["mlp/graph-optimized", "mlp/int8-dynamic", "trees/graph-optimized"]
    for name in names:
        build_variant(candidates.packages, name, folder / name)
    return [folder / name for name in names]


@pytest.fixture
def ask(candidates, gates: GatesSection) -> Callable[..., Question]:
    """Make a question; gates may be given in part."""

    def question(holdout: pa.Table | None = None, *, label_column: str | None = "label", **changes: object) -> Question:
        return Question(
            gates=gates.model_copy(update=changes),
            holdout=candidates.holdout if holdout is None else holdout,
            label_column=label_column,
            seed=0,
            limits=Limits(seconds=60),
        )

    return question


def stricter(gates: GatesSection, **changes: float) -> AccuracyGate:
    assert gates.accuracy is not None
    return gates.accuracy.model_copy(update=changes)


def test_only_variants_that_apply_are_built_in_tasks_of_their_own(candidates, project: Project) -> None:
    assert variants_to_build(project, candidates.packages) == [
        *(f"mlp/{variant}" for variant in VARIANTS),
        "trees/graph-optimized",
    ]


def test_a_loop_over_nothing_is_never_asked_for(candidates, tmp_path: Path) -> None:
    shutil.copytree(candidates.packages / "trees", tmp_path / "packages" / "trees")
    project = _project(tmp_path, PROJECT.replace("[graph-optimized, fp16, int8-dynamic]", "[fp16, int8-dynamic]"))

    assert variants_to_build(project, tmp_path / "packages") == ["trees/fp16"]


def test_a_variant_for_a_gpu_is_left_to_the_machine_that_builds_it(candidates, tmp_path: Path) -> None:
    project = _project(tmp_path, PROJECT.replace("[graph-optimized, fp16, int8-dynamic]", "[cuda]"))

    assert variants_to_build(project, candidates.packages) == ["mlp/cuda", "trees/cuda"]


CLUSTER = """
cluster:
  namespace: n
  mode: Standard
  store: s3://bucket/tidegate
  online_store: redis://redis:6379/0
  prometheus: {url: "http://prometheus:9090", gateway: istio}
"""
GPU = "  serving: {runtime: tidegate-onnx-gpu, accelerator: {resource: nvidia.com/gpu}}"


@pytest.mark.parametrize(
    ("target", "serving", "wanted"),
    [
        pytest.param("kserve", GPU, True, id="on a cluster with GPUs"),
        pytest.param("kserve", "", False, id="on a cluster without"),
        pytest.param("local", GPU, False, id="the same project on a machine without"),
    ],
)
def test_a_project_that_is_served_on_gpus_tries_their_variants(
    candidates, tmp_path: Path, target: str, serving: str, wanted: bool
) -> None:
    text = PROJECT.replace("  variants: [graph-optimized, fp16, int8-dynamic]\n", "") + CLUSTER + serving
    (tmp_path / "tidegate.yaml").write_text(text)

    names = variants_to_build(load_project(tmp_path / "tidegate.yaml", target=target), candidates.packages)

    assert {"mlp/cuda", "mlp/tensorrt-fp16"} <= set(names) if wanted else not [name for name in names if "cuda" in name]
    assert "mlp/graph-optimized" in names


def test_an_unknown_variant_in_the_project_is_refused(candidates, tmp_path: Path) -> None:
    project = _project(tmp_path, PROJECT.replace("[graph-optimized, fp16, int8-dynamic]", "[fp17]"))

    with pytest.raises(OptimizationError, match="variant 'fp17' is unknown"):
        variants_to_build(project, candidates.packages)


def test_no_packages_is_an_error(project: Project, tmp_path: Path) -> None:
    with pytest.raises(OptimizationError, match="package first"):
        variants_to_build(project, tmp_path / "none")


def test_a_whole_selection(candidates, project: Project, built: list[Path], tmp_path: Path) -> None:
    pq.write_table(candidates.holdout, tmp_path / "training_set.parquet")

    selection = select_variant(project, candidates.packages, built, tmp_path / "training_set.parquet", tmp_path / "out")

    assert msgspec.json.decode((tmp_path / "out" / "selection.json").read_bytes(), type=Selection) == selection
    assert {row.name: row.status for row in selection.rows if row.status != "passed"} == {
        "mlp/fp16": "not-applicable",  # it was left out above
        "trees/fp16": "not-applicable",
        "trees/int8-dynamic": "not-applicable",
    }
    assert [row.name for row in selection.rows] == [
        f"{candidate}/{variant}" for candidate in ("mlp", "trees") for variant in ("baseline", *VARIANTS)
    ]
    assert "tree ensemble" in selection.row("trees/int8-dynamic").reason
    assert selection.row("mlp/fp16").reason == "it was not built"
    assert selection.winner is not None
    winner, row = verify_package(tmp_path / "out" / "package"), selection.row(selection.winner)
    assert f"{winner.variant.candidate}/{winner.variant.name}" == selection.winner
    assert {verdict.gate for verdict in winner.verdicts} == {"parity", "accuracy", "benchmark"}
    assert all(verdict.passed and verdict.subject == selection.winner for verdict in winner.verdicts)
    assert {entry.variant for entry in winner.benchmark} == {each.name for each in selection.rows if each.benchmark}
    assert [(each.variant, each.reason) for each in winner.search] == [(each.name, each.reason) for each in selection.rows]
    assert row.accuracy is not None
    assert winner.metrics["roc_auc"] == pytest.approx(row.accuracy.value)
    assert winner.metrics["holdout_rows"] == 300
    assert winner.metrics["load_seconds"] > 0
    assert row.footprint is not None
    assert row.footprint.cost_per_million > 0
    assert {(entry.batch, entry.concurrency) for entry in row.benchmark} == {(1, 1), (16, 1), (16, 2)}


def test_a_candidate_that_is_clearly_worse_loses_however_fast(candidates, ask, gates: GatesSection, tmp_path: Path) -> None:
    baselines = [candidates.packages / "mlp", candidates.packages / "trees"]

    selection = select(ask(accuracy=stricter(gates, max_loss=0.0001)), baselines, [], tmp_path)

    by_auc = sorted(selection.rows, key=lambda row: row.accuracy.value if row.accuracy else 0)
    assert selection.winner == by_auc[-1].name
    assert by_auc[0].status == "failed"
    assert "loss to the best survivor" in by_auc[0].reason


def test_a_graph_that_answers_otherwise_than_its_source_never_wins(candidates, ask, tmp_path: Path) -> None:
    wrong = _with_answers_of_another_model(candidates.packages / "mlp", tmp_path / "wrong")

    selection = select(ask(), [wrong], [], tmp_path / "out")

    assert selection.winner is None
    assert selection.rows[0].reason.startswith("parity: largest error of probability")
    assert selection.rows[0].benchmark == (), "what failed is not timed"
    assert selection.reasons == (f"mlp/baseline: {selection.rows[0].reason}",)
    assert not (tmp_path / "out" / "package").exists()


def _with_answers_of_another_model(package: Path, to: Path) -> Path:
    golden = read_golden(package / GOLDEN_NAME)
    expected = {name: array[::-1] for name, array in golden.outputs.items()}
    write_package(
        to,
        read_manifest(package),
        model=package / MODEL_NAME,
        golden=Golden(golden.inputs, expected),
        reference=package / REFERENCE_NAME,
    )
    return to


def test_a_selection_without_winner_removes_an_earlier_winner(candidates, ask, gates: GatesSection, tmp_path: Path) -> None:
    shutil.copytree(candidates.packages / "mlp", tmp_path / "package")

    selection = select(ask(accuracy=stricter(gates, minimum=0.999)), [candidates.packages / "mlp"], [], tmp_path)

    assert selection.winner is None
    assert not (tmp_path / "package").exists()


def test_without_labels_accuracy_is_not_judged_and_says_so(candidates, ask, tmp_path: Path) -> None:
    selection = select(ask(label_column=None), [candidates.packages / "mlp"], [], tmp_path)

    assert selection.winner == "mlp/baseline"
    assert any("not judged" in verdict.note for verdict in selection.verdicts)
    assert "roc_auc" not in read_manifest(tmp_path / "package").metrics


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda t: t.slice(0, 0), "the holdout holds no rows", id="empty"),
        pytest.param(lambda t: t.drop_columns("label"), "label column 'label' is missing", id="missing label"),
        pytest.param(
            lambda t: t.set_column(t.column_names.index("label"), "label", pa.nulls(t.num_rows, pa.int8())),
            "label column 'label' holds no label", id="no label is known",
        ),
        pytest.param(
            lambda t: t.set_column(t.column_names.index("label"), "label", pa.array([1] * t.num_rows)),
            "0 of class 0", id="one class",
        ),
    ],
)  # fmt: skip
def test_a_bad_holdout_is_named_and_nothing_is_written(candidates, ask, tmp_path: Path, change, said: str) -> None:
    with pytest.raises(DataError, match=said):
        select(ask(change(candidates.holdout)), [candidates.packages / "mlp"], [], tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_column_that_models_lack_loses_them_all(candidates, ask, tmp_path: Path) -> None:
    selection = select(ask(candidates.holdout.drop_columns("hour")), [candidates.packages / "mlp"], [], tmp_path)

    assert selection.winner is None
    assert selection.rows[0].reason.startswith("column 'hour' is missing")


def test_a_training_set_without_split_is_refused(candidates, project: Project, tmp_path: Path) -> None:
    pq.write_table(candidates.holdout.drop_columns("split"), tmp_path / "t.parquet")

    with pytest.raises(DataError, match="column 'split' is missing"):
        select_variant(project, candidates.packages, [], tmp_path / "t.parquet", tmp_path / "out")


def test_a_corrupted_variant_is_refused(candidates, built: list[Path], ask, tmp_path: Path) -> None:
    broken = shutil.copytree(built[0], tmp_path / "broken")
    (broken / "package" / "model.onnx").write_bytes(b"")

    with pytest.raises(PackageError, match=r"model\.onnx"):
        select(ask(), [candidates.packages / "mlp"], [(read_outcome(broken), broken)], tmp_path / "out")


class Stopped(BaseException):
    """What Ctrl-C does at a step."""


class Journal:
    """Writes down every step, and stops at the one whose number is given."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.steps: list[str] = []
        self._title = ""
        self._stop_after = stop_after

    def stage(self, title: str, steps: int) -> None:
        self._title = title

    def step(self, name: str) -> None:
        self.steps.append(f"{self._title} {name}")
        if len(self.steps) == self._stop_after:
            raise Stopped


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is really built and judged, in order."""
    from tidegate.optimization.search import judgement, search

    log: list[str] = []
    really_build, really_judge = search.build_variant_of, judgement.Judge.judge
    monkeypatch.setattr(
        search, "build_variant_of", lambda *given, **named: log.append(f"build {given[1]}") or really_build(*given, **named)
    )
    monkeypatch.setattr(
        judgement.Judge, "judge", lambda judge, trial: log.append(f"judge {trial.name}") or really_judge(judge, trial)
    )
    return log


@pytest.mark.parametrize("stop_after", [1, 2, 4, 5, 8])
def test_a_search_goes_on_where_it_was_stopped(candidates, ask, done: list[str], tmp_path: Path, stop_after: int) -> None:
    names, baseline = ["mlp/graph-optimized", "mlp/int8-dynamic"], candidates.packages / "mlp"

    with pytest.raises(Stopped):
        optimize(baseline, names, ask(), tmp_path / "out", Journal(stop_after))
    selection = optimize(baseline, names, ask(), tmp_path / "out", Journal())

    work = [*(f"build {name}" for name in names), *(f"judge {name}" for name in ("mlp/baseline", *names))]
    assert sorted(done) == sorted(work), "nothing is done twice"
    assert selection.winner is not None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["package", "selection.json"]


def test_another_question_gets_no_old_answer(candidates, ask, done: list[str], tmp_path: Path) -> None:
    names, baseline = ["mlp/int8-dynamic"], candidates.packages / "mlp"
    with pytest.raises(Stopped):
        optimize(baseline, names, ask(), tmp_path / "out", Journal(3))
    before = list(done)

    optimize(baseline, names, ask(candidates.holdout.slice(0, 290)), tmp_path / "out", Journal())

    assert done[len(before) :] == ["judge mlp/baseline", "judge mlp/int8-dynamic"], "the build depends on no rows"


@pytest.mark.parametrize(
    ("pattern", "again"),
    [
        pytest.param("builds/*/outcome.json", ["build mlp/int8-dynamic"], id="an outcome"),
        pytest.param("builds/*/package/model.onnx", ["build mlp/int8-dynamic"], id="a graph"),
        pytest.param("judgements/*baseline*.json", ["judge mlp/baseline"], id="a judgement"),
        pytest.param("judgements/*baseline*.npy", ["judge mlp/baseline"], id="scores"),
    ],
)
def test_what_a_power_failure_damaged_is_done_again(
    candidates, ask, done: list[str], tmp_path: Path, pattern: str, again: list[str]
) -> None:
    names, baseline = ["mlp/int8-dynamic"], candidates.packages / "mlp"
    with pytest.raises(Stopped):
        optimize(baseline, names, ask(), tmp_path / "out", Journal(3))
    [damaged] = (tmp_path / "out" / ".search").glob(pattern)
    damaged.write_bytes(b"")
    before = len(done)

    selection = optimize(baseline, names, ask(), tmp_path / "out", Journal())

    assert done[before:] == again
    assert selection.winner is not None


def test_two_searches_do_not_write_to_one_place(candidates, ask, tmp_path: Path) -> None:
    with (
        SearchState(tmp_path / ".search").in_use(),
        pytest.raises(OptimizationError, match="another search is writing there; wait for it, or give another --out"),
    ):
        optimize(candidates.packages / "mlp", [], ask(), tmp_path, Journal())


def test_a_variant_whose_build_crashes_is_lost_alone(candidates, ask, tmp_path: Path, monkeypatch) -> None:
    really_start = build.Workers.start

    def start(workers: object, path: str, *arguments: object, **options: object) -> object:
        crashes = path == build.BUILDER and arguments[1] == "mlp/fp16"
        path = "tests.unit.optimization.misbehaving:CrashingBuilder" if crashes else path
        return really_start(workers, path, *arguments, **options)

    monkeypatch.setattr(build.Workers, "start", start)
    monkeypatch.chdir(Path(__file__).parents[4])

    selection = optimize(candidates.packages / "mlp", ["mlp/fp16", "mlp/int8-dynamic"], ask(), tmp_path / "out", Journal())

    assert selection.row("mlp/fp16").status == "failed"
    assert selection.row("mlp/fp16").reason == "building it was killed by signal 11 (SIGSEGV)"
    assert selection.row("mlp/int8-dynamic").status == "passed"


def test_a_variant_that_is_lost_while_judged_or_timed_is_lost_alone(candidates, ask, tmp_path: Path, monkeypatch) -> None:
    from tidegate.optimization.benchmark import conductor
    from tidegate.optimization.search import judgement

    monkeypatch.setattr(judgement, "SUBJECT", "tests.unit.optimization.misbehaving:DyingJudged")
    monkeypatch.setattr(conductor, "SUBJECT", "tests.unit.optimization.misbehaving:DyingTimed")
    monkeypatch.chdir(Path(__file__).parents[4])

    selection = optimize(
        candidates.packages / "mlp", ["mlp/graph-optimized", "mlp/int8-dynamic"], ask(), tmp_path / "out", Journal()
    )

    killed = "was killed by signal 9 (SIGKILL), as the kernel does when memory runs out"
    assert selection.row("mlp/graph-optimized").reason == f"{killed}, when it answered the golden sample"
    assert selection.row("mlp/int8-dynamic").reason == f"{killed}, in the benchmark"
    assert selection.winner == "mlp/baseline"


def test_no_process_is_left(candidates, ask, tmp_path: Path) -> None:
    before = _children()

    optimize(candidates.packages / "mlp", ["mlp/int8-dynamic"], ask(), tmp_path / "out", Journal())

    assert _children() == before


def _children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()
