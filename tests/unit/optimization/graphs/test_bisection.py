import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.optimization.graphs.bisection import largest_accepted, named_briefly


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.data())
def test_exactly_the_items_at_fault_are_rejected(count: int, data: st.DataObject) -> None:
    items = [f"n{number}" for number in range(count)]
    faulty = data.draw(st.sets(st.sampled_from(items), max_size=5)) if items else set()

    found = largest_accepted(items, lambda chosen: not faulty & set(chosen), max_trials=1_000)

    assert found.rejected == tuple(item for item in items if item in faulty)
    assert found.accepted == tuple(item for item in items if item not in faulty)
    assert found.trials <= 1 + 2 * len(faulty) * (1 + math.ceil(math.log2(max(2, count))))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(0, 40), st.integers(0, 12))
def test_what_is_accepted_was_tried_as_it_is(errors: list[int], budget: int, max_trials: int) -> None:
    items = [str(number) for number in range(len(errors))]
    tried: list[tuple[str, ...]] = []

    def accepts(chosen: object) -> bool:
        tried.append(tuple(chosen))
        return sum(errors[int(item)] for item in chosen) <= budget

    found = largest_accepted(items, accepts, max_trials=max_trials)

    assert len(tried) == found.trials <= max_trials
    assert not found.accepted or found.accepted in tried
    assert sum(errors[int(item)] for item in found.accepted) <= budget
    assert sorted(found.accepted + found.rejected) == sorted(items)


def test_all_are_tried_together_first() -> None:
    assert largest_accepted(["a", "b", "c"], lambda _: True, max_trials=1).trials == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [
        pytest.param(0, "", id="none"),
        pytest.param(2, "n0, n1", id="few"),
        pytest.param(5, "n0, n1, n2 and 2 more", id="many"),
    ],
)
def test_many_names_are_shortened(count: int, text: str) -> None:
    assert named_briefly([f"n{number}" for number in range(count)], most=3) == text
