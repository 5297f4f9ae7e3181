"""What a release shows of itself, held against scikit-learn."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from tests import small_packages
from tidegate.errors import PackageError, RegistryError
from tidegate.packaging.format.manifest import REFERENCE_NAME, Verdict
from tidegate.registry.registry import ModelRegistry
from tidegate.release.evidence import confusion, gate_summary, release_summary, roc_points, rollout_metrics, rollout_page
from tidegate.release.record import ReleaseLedger

SCORES = {
    "continuous": lambda rng, rows: rng.random(rows),
    "eight values, as of a tree": lambda rng, rows: rng.integers(0, 8, rows) / 8,
    "one value": lambda rng, rows: np.full(rows, 0.25),
    "few rows": lambda rng, rows: rng.random(rows)[:5],
}


@pytest.fixture(params=[pytest.param(scores, id=name) for name, scores in SCORES.items()])
def scored(request, make_package):
    """A package whose reference holds labels and probabilities; with both."""
    rng = np.random.default_rng(3)
    probability = request.param(rng, 5000).astype(np.float32)
    label = (rng.random(len(probability)) < probability).astype(np.int8)
    label[:2] = 0, 1
    package = make_package()
    pq.write_table(pa.table({"label": label, "probability": probability}), package / REFERENCE_NAME)
    return package, label, probability


def test_roc_points_are_points_of_the_curve(scored):
    package, label, probability = scored

    false_positive_rate, true_positive_rate, thresholds = roc_points(package)

    expected = {
        float(threshold): (fpr, tpr)
        for fpr, tpr, threshold in zip(*roc_curve(label, probability, drop_intermediate=False), strict=True)
    }
    for fpr, tpr, threshold in zip(false_positive_rate, true_positive_rate, thresholds, strict=True):
        assert (fpr, tpr) == pytest.approx(expected[threshold])
    assert (false_positive_rate[-1], true_positive_rate[-1]) == (1, 1)
    assert 1 <= len(thresholds) == len(set(thresholds)) <= 200


def test_roc_points_hold_the_area_under_the_curve(scored):
    package, label, probability = scored

    false_positive_rate, true_positive_rate, _ = roc_points(package)

    area = np.trapezoid([0, *true_positive_rate], [0, *false_positive_rate])
    assert area == pytest.approx(roc_auc_score(label, probability), abs=2e-3)


def test_confusion_matrix_is_that_of_scikit_learn(scored):
    package, label, probability = scored

    classes, matrix = confusion(package)

    assert classes == ["on-time", "late"]
    assert matrix == confusion_matrix(label, probability >= 0.5, labels=[0, 1]).tolist()


def test_summary_names_version_gate_and_number(project, store, make_package):
    version = ModelRegistry(store).register(make_package(), reason="initial")
    ledger = ReleaseLedger(store, project.name)
    ledger.begin("run-1", event_time=datetime(2013, 4, 1, tzinfo=UTC), reason="initial")
    ledger.add_verdicts(
        "run-1", [Verdict(gate="data", subject="min_rows", measure="rows", value=4000.0, bound=1000.0, passed=True)]
    )
    ledger.registered("run-1", version)

    summary = release_summary(project, "run-1")

    assert summary.startswith("#")
    assert "version 1" in summary.lower()


@pytest.mark.parametrize(
    ("begun", "message"),
    [
        pytest.param(True, "'run-1' of flights-late registered no version", id="no-version"),
        pytest.param(False, "'run-1' of flights-late was never begun", id="never-begun"),
    ],
)
def test_summary_of_a_release_without_a_version_is_refused(project, store, begun, message):
    if begun:
        ReleaseLedger(store, project.name).begin("run-1", event_time=datetime(2013, 4, 1, tzinfo=UTC), reason="initial")

    with pytest.raises(RegistryError, match=message):
        release_summary(project, "run-1")


def test_gate_is_shown_with_its_number_and_its_bound(project, store):
    ledger = ReleaseLedger(store, project.name)
    ledger.begin("run-1", event_time=datetime(2013, 4, 1, tzinfo=UTC), reason="initial")
    loss = Verdict(gate="champion", subject="trees", measure="loss", value=0.02, bound=0.005, passed=False, note="worse")
    other = Verdict(gate="data", subject="rows", measure="rows", value=4000.0, bound=1000.0, passed=True)
    ledger.add_verdicts("run-1", [loss, other])

    shown = gate_summary(project, "run-1", "champion")

    assert shown.startswith("**champion**: ✕ 1 of 1 check failed")
    assert "| trees | loss | 0.02 | 0.005 | ✕ failed | worse |" in shown
    assert "4000" not in shown


@pytest.mark.parametrize(
    ("looked", "expected"),
    [
        pytest.param(False, {"looks": 0.0}, id="first version"),
        pytest.param(
            True,
            {
                "looks": 1.0,
                "canary_requests": 120.0,
                "canary_error_rate": 0.05,
                "canary_p95_ms": 12.5,
                "stable_requests": 900.0,
                "stable_error_rate": 0.01,
            },
            id="a stable that observed no latency",
        ),
    ],
)
def test_rollout_is_shown_with_the_judge_s_numbers(project, store, make_rollout, looked, expected):
    ledger = ReleaseLedger(store, project.name)
    ledger.begin("run-1", event_time=datetime(2013, 4, 1, tzinfo=UTC), reason="initial")
    rollout = make_rollout(looked=looked)
    store.put(f"rollouts/{project.name}/{rollout.rollout_id}.json", msgspec.json.encode(rollout))
    ledger.rolled_out("run-1", rollout.rollout_id, "rolled_back")

    assert rollout_metrics(project, "run-1") == expected
    page = rollout_page(project, "run-1")
    assert page.lower().startswith("<!doctype html>")
    assert "flights-late: version 2 rolled back" in page
    assert ("too many errors &lt;5xx&gt;" in page) is looked
    assert ("The first version" in page) is not looked


def test_release_that_was_never_rolled_out_has_no_rollout_to_show(project, store):
    ReleaseLedger(store, project.name).begin("run-1", event_time=datetime(2013, 4, 1, tzinfo=UTC), reason="initial")

    with pytest.raises(RegistryError, match="'run-1' of flights-late was never rolled out"):
        rollout_metrics(project, "run-1")


@pytest.mark.parametrize("make", [small_packages.multiclass, small_packages.regression])
@pytest.mark.parametrize("show", [roc_points, confusion])
def test_other_tasks_than_binary_classification_are_refused_in_one_line(make, show, tmp_path):
    package = make(tmp_path / "package")

    with pytest.raises(PackageError, match=r"it has task .*; the release pipeline is for binary classifications"):
        show(package)
