"""The page of the data gate, and the profile of a training set."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from tidegate.packaging.format.manifest import Verdict
from tidegate.reporting.data_validation import profile_of, render_data_validation


@pytest.fixture
def table():
    return pa.table(
        {
            "temp": pa.array([1.0, 2.0, None, float("nan"), 5.0]),
            "seats": pa.array([1, 2, 2, 2, 3], pa.int64()),
            "carrier": pa.array(["AA", "AA", None, "<b>", "AA"]).dictionary_encode(),
            "flight_id": pa.array(["1", "2", "3", "4", "5"]),
            "at": pa.array([datetime(2013, 1, day, tzinfo=UTC) for day in range(1, 6)]),
            "empty": pa.nulls(5, pa.float32()),
        }
    )


def test_profile_counts_nan_as_missing(table):
    columns = {column.name: column for column in profile_of(table).columns}

    temp = columns["temp"]
    assert (temp.missing_share, temp.distinct, temp.minimum, temp.maximum) == (pytest.approx(0.4), 3, "1", "5")
    assert sum(temp.histogram) == 3
    assert columns["seats"].mean == "2"
    assert columns["carrier"].frequent == "AA, <b>"
    assert columns["flight_id"].frequent == "every value is unique"
    assert (columns["at"].minimum, columns["at"].maximum) == ("1 Jan 2013", "5 Jan 2013")
    assert (columns["empty"].missing_share, columns["empty"].minimum, columns["empty"].histogram) == (1.0, "n/a", ())


def test_profile_of_no_rows(table):
    assert [column.missing_share for column in profile_of(table.slice(0, 0)).columns] == [0.0] * 6


def test_infinite_values_have_a_histogram_of_the_finite_ones():
    (column,) = profile_of(pa.table({"x": np.array([1.0, np.inf, -np.inf, 2.0])})).columns

    assert sum(column.histogram) == 2
    assert (column.minimum, column.mean, column.maximum) == ("-∞", "NaN", "∞")


@pytest.mark.parametrize(
    ("outcomes", "badge", "lead"),
    [
        pytest.param([True, True], "data gate passed", "Every number met its bound.", id="passed"),
        pytest.param([True, False], "1 check failed", "The release stops here", id="failed"),
        pytest.param([], "no check was made", "No check was made, so nothing vouches", id="no check"),
    ],
)
def test_page_tells_the_gate(table, outcomes, badge, lead):
    verdicts = [
        Verdict(gate="data", subject=f"c{index}", measure="share missing", value=0.1, bound=0.2, passed=passed)
        for index, passed in enumerate(outcomes)
    ]

    html = render_data_validation(verdicts, profile_of(table))

    assert badge in html
    assert lead in html
    assert "AA, &lt;b&gt;" in html
    assert "://" not in html.replace("http://www.w3.org/2000/svg", "")
