"""The model steps of a release: registration, the rows a champion is judged on, lineage, and gates that stop."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.errors import DataError, ObjectNotFound, TrainingError
from tidegate.packaging.format.manifest import MANIFEST_NAME, FeatureContract, Lineage, Verdict
from tidegate.packaging.format.package import read_manifest
from tidegate.project import Project, load_project
from tidegate.registry.registry import ModelRegistry
from tidegate.release import model
from tidegate.release.data import CONTRACT_METADATA, UNTIL_METADATA, describe_verdict, read_frozen, record_gate
from tidegate.release.record import ReleaseLedger

UNTIL = datetime(2013, 4, 1, tzinfo=UTC)
CONTRACT = FeatureContract(service="flights_v1", project="flights", views=())


@pytest.fixture
def ledger(store) -> ReleaseLedger:
    ledger = ReleaseLedger(store, "flights-late")
    ledger.begin("run-1", event_time=UNTIL, reason="initial")
    return ledger


@pytest.fixture
def training_set(tmp_path: Path) -> Path:
    """Twenty days before UNTIL, one row an hour; the last ten are the holdout."""
    hours = 480
    moments = [UNTIL - timedelta(hours=hours - hour) for hour in range(hours)]
    table = pa.table(
        {
            "event_timestamp": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "late": np.arange(hours) % 2,
            "split": ["train"] * 240 + ["holdout"] * 240,
        }
    )
    metadata = {CONTRACT_METADATA: msgspec.json.encode(CONTRACT), UNTIL_METADATA: UNTIL.isoformat().encode()}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "training_set.parquet")
    return tmp_path / "training_set.parquet"


def test_registering_moves_challenger_and_is_idempotent(project, store, ledger, make_package):
    registry = ModelRegistry(store)
    first, second = make_package("first"), make_package("second")

    versions = [model.register(project, release_id="run-1", package=path, reason="drift") for path in (first, first, second)]
    events = registry.events(project.name)

    assert versions == [1, 1, 2]
    assert registry.alias(project.name, "challenger").version == 2
    assert registry.alias(project.name, "champion") is None
    assert (ledger.find("run-1").state, ledger.find("run-1").version) == ("registered", 2)
    model.register(project, release_id="run-1", package=second, reason="drift")
    assert registry.events(project.name) == events


@pytest.fixture
def compared(monkeypatch) -> list[tuple[Path | None, pa.Table]]:
    """What the champion gate was asked to compare with, and on which rows."""
    asked = []

    def compare(project: Project, challenger: Path, champion: Path | None, recent: pa.Table) -> Verdict:
        asked.append((champion, recent))
        return Verdict(gate="champion", subject="a", measure="roc_auc loss", value=0.02, bound=0.0, passed=champion is None)

    monkeypatch.setattr("tidegate.optimization.gates.champion.compare_with_champion", compare)
    return asked


def compare(project: Project, training_set: Path, tmp_path: Path) -> Verdict:
    return model.compare(
        project, release_id="run-1", challenger=tmp_path / "package", training_set=training_set, workdir=tmp_path
    )


def test_without_a_champion_there_is_nothing_to_lose(project, ledger, compared, training_set, tmp_path):
    assert compare(project, training_set, tmp_path).passed

    [(champion, recent)] = compared
    assert (champion, recent.num_rows) == (None, 240)
    assert ledger.find("run-1").state == "running"


@pytest.mark.parametrize(
    ("trained_until", "rows"),
    [
        pytest.param(UNTIL - timedelta(days=60), 240, id="champion saw none of the holdout"),
        pytest.param(UNTIL - timedelta(days=4), 96, id="champion saw its first days"),
        pytest.param(UNTIL, 0, id="champion saw all of it"),
    ],
)
def test_champion_is_judged_on_rows_it_never_saw(
    project, store, ledger, compared, training_set, make_package, tmp_path, trained_until, rows
):
    register_champion(store, make_package(), trained_until)

    verdict = compare(project, training_set, tmp_path)

    [(champion, recent)] = compared
    assert read_manifest(champion).lineage.window_end == trained_until.isoformat()
    assert recent.num_rows == rows
    assert set(recent["split"].to_pylist()) <= {"holdout"}
    record = ledger.find("run-1")
    assert (record.state, record.verdicts) == ("stopped", (verdict,))
    assert record.stopped_by == "champion gate: a: roc_auc loss 0.02 (bound 0) missed"


def register_champion(store, package: Path, trained_until: datetime) -> None:
    manifest = read_manifest(package)
    lineage = Lineage(
        run_id="run-0",
        created_at=trained_until.isoformat(),
        event_time=trained_until.isoformat(),
        window_start=(trained_until - timedelta(days=90)).isoformat(),
        window_end=trained_until.isoformat(),
        holdout_start=(trained_until - timedelta(days=14)).isoformat(),
        data_digest="sha256:0",
        code_digest="sha256:0",
        project_digest="sha256:0",
        reason="initial",
        tidegate_version="0",
    )
    (package / MANIFEST_NAME).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, lineage=lineage)))
    registry = ModelRegistry(store)
    version = registry.register(package, reason="initial")
    registry.move_alias(manifest.name, "champion", version, reason="initial", expected=None)


@pytest.fixture
def lineage_of(monkeypatch, training_set, tmp_path):
    """Package nothing, and return the lineage that packages would have got."""

    def package(project: Project, release_id: str = "run-1") -> Lineage:
        monkeypatch.setattr("tidegate.packaging.packager.package_candidates", lambda *given: given)
        given = model.package_models(
            project, release_id=release_id, source=tmp_path / "source", training_set=training_set, out=tmp_path / "out"
        )
        assert given[3] == CONTRACT
        return given[4]

    return package


def test_lineage_says_where_a_package_comes_from(project, ledger, lineage_of, training_set):
    lineage = lineage_of(project)

    assert (lineage.run_id, lineage.reason, lineage.event_time) == ("run-1", "initial", UNTIL.isoformat())
    assert lineage.window_start == (UNTIL - timedelta(days=90)).isoformat()
    assert lineage.holdout_start == (UNTIL - timedelta(days=14)).isoformat()
    assert lineage.data_digest == digest(training_set)
    assert lineage.code_digest == digest(project.paths.root / "train.py")
    assert lineage.project_digest == project.digest == digest(project.file)


@pytest.mark.parametrize(
    ("function", "source"),
    [
        pytest.param("train:train", "train.py", id="module"),
        pytest.param("late.model:train", "late/model.py", id="module of a package"),
        pytest.param("late:train", "late/__init__.py", id="package"),
    ],
)
def test_code_is_found_wherever_the_train_function_lies(project, ledger, lineage_of, function, source):
    root = project.paths.root
    (root / "late").mkdir()
    (root / "late" / "__init__.py").write_text("# package\n")
    (root / "late" / "model.py").write_text("# model\n")
    project.file.write_text(project.file.read_text().replace("train:train", function))

    assert lineage_of(load_project(project.file)).code_digest == digest(root / source)


def test_code_that_is_gone_is_one_error(project, ledger, lineage_of):
    (project.paths.root / "train.py").unlink()

    with pytest.raises(TrainingError, match=r"training.function: module 'train' has no source file in "):
        lineage_of(project)


def test_packaging_for_a_release_that_was_never_begun_is_refused(project, store, lineage_of):
    with pytest.raises(ObjectNotFound, match="release 'run-9' of flights-late was never begun"):
        lineage_of(project, "run-9")


def test_training_set_without_its_contract_is_refused(tmp_path):
    pq.write_table(pa.table({"late": [0]}), tmp_path / "rows.parquet")

    with pytest.raises(DataError, match="no feature contract in its metadata; write it with write_training_set"):
        read_frozen(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        pytest.param({}, "min_rows: rows 900 (bound 1000) missed", id="missed"),
        pytest.param({"value": 4000.0, "passed": True}, "min_rows: rows 4000 (bound 1000) passed", id="passed"),
        pytest.param({"value": None}, "min_rows: rows no value (bound 1000) missed", id="no-value"),
        pytest.param({"bound": None}, "min_rows: rows 900 missed", id="no-bound"),
        pytest.param({"note": "window too short"}, "min_rows: rows 900 (bound 1000) missed, window too short", id="note"),
        pytest.param({"value": 1 / 3, "bound": 1e-7}, "min_rows: rows 0.333333 (bound 1e-07) missed", id="fractions"),
    ],
)
def test_verdict_in_words(changes, line):
    verdict = Verdict(gate="data", subject="min_rows", measure="rows", value=900.0, bound=1000.0, passed=False)

    assert describe_verdict(msgspec.structs.replace(verdict, **changes)) == line


def test_gate_stops_the_release_with_every_number_that_missed(project, ledger):
    verdicts = [
        Verdict(gate="data", subject=name, measure="share", value=value, bound=0.5, passed=value <= 0.5)
        for name, value in (("temp", 0.9), ("wind", 0.1), ("rain", 0.7))
    ]

    assert not record_gate(project, "run-1", "data", verdicts)

    record = ledger.find("run-1")
    assert (record.state, len(record.verdicts)) == ("stopped", 3)
    assert record.stopped_by == "data gate: temp: share 0.9 (bound 0.5) missed; rain: share 0.7 (bound 0.5) missed"


def test_gate_that_passes_lets_the_release_go_on(project, ledger):
    assert record_gate(project, "run-1", "data", [])
    assert ledger.find("run-1").state == "running"


def digest(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
