"""A window is thinned to the share that all of it was sampled with, and says what is redacted."""

from typing import Any

import pyarrow as pa
import pytest

from tidegate.monitoring.coverage import evenly_sampled, redacted_in
from tidegate.serving.inference_log.sampling import is_sampled

IDS = [f"r{number}" for number in range(2000)]


def logged(ids: list[str], share: float | None) -> pa.Table:
    kept = [request_id for request_id in ids if is_sampled(request_id, share or 1.0)]
    return pa.table({"request_id": kept, "sample_share": pa.array([share] * len(kept), pa.float64())})


@pytest.mark.parametrize(
    "window",
    [
        pytest.param(pa.table({"request_id": IDS}), id="a log older than sampling"),
        pytest.param(logged(IDS, None), id="no share told"),
        pytest.param(logged(IDS, 1.0), id="all requests"),
        pytest.param(logged(IDS, 0.2), id="one share"),
        pytest.param(logged([], 0.2), id="no rows"),
    ],
)
def test_a_window_of_one_share_stays_as_it_is(window: pa.Table) -> None:
    assert evenly_sampled(window).equals(window)


@pytest.mark.parametrize(
    "before", [pytest.param(None, id="not told"), pytest.param(1.0, id="all"), pytest.param(0.5, id="half")]
)
def test_every_part_is_thinned_to_the_smallest_share(before: float | None) -> None:
    part, other = IDS[:1000], IDS[1000:]
    window = evenly_sampled(pa.concat_tables([logged(part, before), logged(other, 0.2)]))
    assert window["request_id"].to_pylist() == [request_id for request_id in IDS if is_sampled(request_id, 0.2)]


@pytest.mark.parametrize(
    ("window", "names"),
    [
        pytest.param({"request_id": ["a"]}, set(), id="a log older than redaction"),
        pytest.param({"redacted": pa.array([None, None], pa.string())}, set(), id="nothing"),
        pytest.param(
            {"redacted": ["age,dest:hash", None, "age,city"]}, {"age", "dest", "city"}, id="changed within the window"
        ),
    ],
)
def test_what_is_redacted_in_any_row(window: dict[str, Any], names: set[str]) -> None:
    assert redacted_in(pa.table(window)) == names
