"""The choice among variants that met every gate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.optimization.search.choice import Contender, choose


def contender(name: str, by_round: float, *, noise: float = 0.01, quality: float | None = 0.7) -> Contender:
    """Fifteen rounds with some noise of its own, the same in every test."""
    rng = np.random.default_rng(list(name.encode()))
    return Contender(name, by_round * rng.normal(1, noise, 15), quality)


@pytest.mark.parametrize(
    ("contenders", "objective", "winner"),
    [
        pytest.param(
            [contender("mlp/baseline", 20), contender("mlp/fp16", 10)], "latency", "mlp/fp16", id="the faster wins",
        ),
        pytest.param(
            [contender("mlp/baseline", 10.05), contender("mlp/fp16", 10)], "latency", "mlp/baseline",
            id="within noise the simpler wins",
        ),
        pytest.param(
            [contender("mlp/baseline", 10, quality=0.71), contender("trees/baseline", 10)], "latency", "mlp/baseline",
            id="of equally simple ones the more accurate wins",
        ),
        pytest.param(
            [contender("mlp/baseline", 10, quality=-2.0), contender("trees/baseline", 10, quality=-1.0)], "cost",
            "trees/baseline", id="of errors the smaller is the better quality",
        ),
        pytest.param(
            [contender("mlp/fp16", 50, noise=0), contender("mlp/int8-dynamic", 90, noise=0)], "size", "mlp/fp16",
            id="by size the smaller wins",
        ),
        pytest.param([contender("mlp/fp16", 20, quality=None)], "latency", "mlp/fp16", id="without labels, alone"),
    ],
)  # fmt: skip
def test_the_winner(contenders, objective, winner) -> None:
    found, reasons = choose(contenders, objective)

    assert found == winner
    assert reasons.keys() == {contender.name for contender in contenders}


def test_nobody_wins_among_nobody() -> None:
    assert choose([], "latency") == (None, {})


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("latency", "the time of one row is 2.0"),
        ("throughput", "the time per row of full batches is 2.0"),
        ("cost", "the price of a million rows is 2.0"),
        ("size", "the size is 2.0"),
    ],
)
def test_a_loser_is_told_by_how_much(objective, said: str) -> None:
    _, reasons = choose([contender("mlp/baseline", 20, noise=0), contender("mlp/fp16", 10, noise=0)], objective)

    assert reasons["mlp/baseline"].startswith(said)
    assert reasons["mlp/fp16"] == f"best {objective} of 2 that met every gate"


def test_sizes_have_no_interval() -> None:
    _, reasons = choose([contender("m/baseline", 30, noise=0), contender("m/fp16", 20, noise=0)], "size")

    assert reasons["m/baseline"] == "the size is 1.50 times that of m/fp16"


def test_who_is_passed_over_within_noise_is_told_so() -> None:
    _, reasons = choose(
        [contender("m/baseline", 10.01), contender("m/fp16", 10), contender("m/int8-dynamic", 10.02)], "latency"
    )

    assert "simplest of 3 within noise" in reasons["m/baseline"]
    assert sum("within noise" in reason for reason in reasons.values()) == 3


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["baseline", "graph-optimized", "fp16", "int8-dynamic"]), min_size=1, max_size=4, unique=True),
    st.data(),
)
def test_whoever_wins_is_never_materially_slower_than_the_fastest(variants: list[str], data: st.DataObject) -> None:
    p50 = {variant: data.draw(st.floats(5, 50), label=variant) for variant in variants}
    rng = np.random.default_rng(0)
    contenders = [Contender(f"m/{name}", value * rng.normal(1, 0.01, 15)) for name, value in p50.items()]

    winner, _ = choose(contenders, "latency")

    assert winner is not None
    assert p50[winner.removeprefix("m/")] <= min(p50.values()) * 1.04
