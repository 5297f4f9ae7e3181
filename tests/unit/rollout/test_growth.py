"""Totals that only grow, over restarts, overlapping answers, and series that vanish."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.rollout.growth import Growth
from tidegate.rollout.prometheus_api import Series


def series(*values, at=1.0, **labels):
    return Series(labels, tuple((at + index, value) for index, value in enumerate(values)))


def total(growth):
    return sum(totals[""] for _, totals in growth.totals())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param([[series(5)]], 5, id="what it counted before it was seen"),
        pytest.param([[series(5, 5, 9)]], 9, id="growing"),
        pytest.param([[series(5, 9)], [series(5, 9, 12)]], 12, id="overlapping answers"),
        pytest.param([[series(5, 9)], [series(7, at=1.5)]], 9, id="older than what was seen"),
        pytest.param([[series(5, 9, 2)]], 11, id="restart between two scrapes"),
        pytest.param([[series(5, 9)], [series(9, 2, 8, 1, at=2)]], 18, id="two restarts between two looks"),
        pytest.param([[series(5)], [series(0, at=2)]], 5, id="restart, and nothing counted since"),
        pytest.param([[series(5, pod="a")], [series(3, pod="b", at=2)]], 8, id="replaced by another pod"),
        pytest.param([[series(5, pod="a"), series(3, pod="b")], [series(7, pod="a", at=2)]], 10, id="vanished pod"),
        pytest.param([[series(5)], [], [series(9, at=60)]], 9, id="an answer without it"),
        pytest.param([[series()]], 0, id="no sample"),
        pytest.param([], 0, id="nothing"),
    ],
)
def test_totals(answers, expected):
    growth = Growth()

    for answer in answers:
        growth.see(answer)

    assert total(growth) == expected


def test_buckets_restart_together():
    """The bucket that passed its old value by the next scrape started again all the same."""
    growth = Growth()

    growth.see([series(3, 2, le="1"), series(5, 9, le="+Inf")])

    assert growth.totals() == [({}, {"1": 5, "+Inf": 14})]


@st.composite
def lives(draw):
    """The scrapes of one process: several lives, each told from the one before by its first scrape, which shows less."""
    values, truth, last = [], 0, None
    for _ in range(draw(st.integers(1, 4))):
        start = 0 if last is None else draw(st.integers(0, max(0, last - 1)))
        if last == 0:
            break
        life = [start]
        for step in draw(st.lists(st.integers(0, 50), max_size=6)):
            life.append(life[-1] + step)
        values += life
        truth += life[-1]
        last = life[-1]
    return values, truth


@given(lives(), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=5))
def test_any_windows_that_overlap_give_the_truth(life, windows):
    values, truth = life
    samples = tuple((float(at + 1), value) for at, value in enumerate(values))
    growth = Growth()

    until = 0
    for back, ahead in windows:
        begin, until = max(0, until - back), until + ahead
        growth.see([Series({"pod": "a"}, samples[begin:until])])
    growth.see([Series({"pod": "a"}, samples)])

    assert total(growth) == truth
