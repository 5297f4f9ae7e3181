from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from tidegate.monitoring.concept import measure_concept_drift

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)


def rows(count: int, *, skill: float, seed: int = 1, labelled: float = 1.0) -> pa.Table:
    """`count` predictions, one a minute, whose scores of class 1 lie `skill` above the others'."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, count).astype(np.int8)
    return pa.table(
        {
            "event_time": pa.array([NOON + timedelta(minutes=row) for row in range(count)], pa.timestamp("us", tz="UTC")),
            "probability": (rng.normal(size=count) + skill * label).astype(np.float32),
            "label": pa.array(label, mask=rng.random(count) >= labelled),
        }
    )


def measure(window: pa.Table, *, hours: float = 10_000, min_rows: int = 100, max_loss: float = 0.03) -> object:
    asked_before = NOON + timedelta(hours=hours)
    return measure_concept_drift(rows(5000, skill=1.0), window, asked_before=asked_before, min_rows=min_rows, max_loss=max_loss)


@pytest.mark.parametrize(
    ("skill", "count", "drifted"),
    [
        pytest.param(1.0, 3000, False, id="same skill"),
        pytest.param(0.5, 3000, True, id="lost skill"),
        pytest.param(1.5, 3000, False, id="gained skill"),
        pytest.param(0.95, 3000, False, id="lost less than the bound"),
    ],
)
def test_a_loss_of_accuracy_is_concept_drift(skill: float, count: int, drifted: bool) -> None:
    found = measure(rows(count, skill=skill, seed=2))

    assert found.drifted is drifted
    assert found.loss_low < found.loss < found.loss_high
    assert found.loss == pytest.approx(found.reference - found.window)


def test_a_loss_that_may_be_chance_is_none() -> None:
    # given a small window whose loss is above the bound, but whose interval holds zero
    found = measure(rows(60, skill=0.75, seed=11), min_rows=50)

    assert found.loss > 0.03
    assert found.loss_low < 0
    assert not found.drifted


def test_too_few_labels_say_nothing() -> None:
    found = measure(rows(1000, skill=0.0, seed=3, labelled=0.05))

    assert found.loss is None
    assert not found.drifted
    assert "labelled rows of 1000; 100 are needed" in found.note


def test_labels_of_one_class_say_nothing() -> None:
    window = rows(500, skill=1.0)
    window = window.set_column(2, "label", pa.array([1] * 500, pa.int8()))

    found = measure(window)

    assert found.loss is None
    assert "two rows of each class" in found.note


def test_predictions_whose_labels_may_be_late_wait() -> None:
    # given a window whose later half lost all skill, but is younger than the label delay
    early, late = rows(600, skill=1.0, seed=4), rows(600, skill=-3.0, seed=5)
    moved = pa.array([NOON + timedelta(minutes=600 + row) for row in range(600)], pa.timestamp("us", tz="UTC"))
    window = pa.concat_tables([early, late.set_column(0, "event_time", moved)])

    assert not measure(window, hours=10).drifted
    assert measure(window, hours=10).labelled_rows == 600
    assert measure(window, hours=20).drifted
