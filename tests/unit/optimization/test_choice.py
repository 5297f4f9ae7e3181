import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.optimization.benchmark import Timings
from tidegate.optimization.choice import Contender, choose


def timings(**p50_by_variant: float) -> Timings:
    """Fifteen rounds with 1 % of noise, the same for everyone only on average; `mlp_fp16` stands for `mlp/fp16`."""
    rng = np.random.default_rng(0)
    seconds = {
        (name.replace("_", "/", 1).replace("_", "-"), batch): p50 * batch**0.5 * rng.normal(1, 0.01, (15, 20))
        for name, p50 in p50_by_variant.items()
        for batch in (1, 64)
    }
    return Timings(seconds, (1, 64))


def contender(name: str, *, size: int = 100, auc: float | None = 0.7) -> Contender:
    return Contender(name, size, auc)


@pytest.mark.parametrize(
    ("measured", "contenders", "objective", "winner"),
    [
        pytest.param(
            timings(mlp_baseline=20, mlp_fp16=10), [contender("mlp/baseline"), contender("mlp/fp16")], "latency", "mlp/fp16",
            id="the faster wins",
        ),
        pytest.param(
            timings(mlp_baseline=10.05, mlp_fp16=10), [contender("mlp/baseline"), contender("mlp/fp16")], "latency",
            "mlp/baseline", id="within noise the simpler wins",
        ),
        pytest.param(
            timings(mlp_baseline=10, trees_baseline=10), [contender("mlp/baseline", auc=0.71), contender("trees/baseline")],
            "latency", "mlp/baseline", id="of equally simple ones the more accurate wins",
        ),
        pytest.param(
            timings(mlp_fp16=20, mlp_int8_dynamic=10),
            [contender("mlp/fp16", size=50), contender("mlp/int8-dynamic", size=90)], "size", "mlp/fp16",
            id="by size the smaller wins, however slow",
        ),
        pytest.param(
            timings(mlp_fp16=20, mlp_int8_dynamic=10), [contender("mlp/fp16"), contender("mlp/int8-dynamic")], "throughput",
            "mlp/int8-dynamic", id="by throughput the faster in batches wins",
        ),
        pytest.param(
            timings(mlp_fp16=20), [contender("mlp/fp16", auc=None)], "latency", "mlp/fp16", id="without labels, alone",
        ),
    ],
)  # fmt: skip
def test_the_winner(measured, contenders, objective, winner) -> None:
    found, reasons = choose(contenders, measured, objective)

    assert found == winner
    assert reasons.keys() == {contender.name for contender in contenders}


def test_nobody_wins_among_nobody() -> None:
    assert choose([], timings(), "latency") == (None, {})


def test_a_loser_is_told_by_how_much() -> None:
    _, reasons = choose([contender("mlp/baseline"), contender("mlp/fp16")], timings(mlp_baseline=20, mlp_fp16=10), "latency")

    assert "latency cost is 2.0" in reasons["mlp/baseline"]


@given(
    st.lists(st.sampled_from(["baseline", "graph-optimized", "fp16", "int8-dynamic"]), min_size=1, max_size=4, unique=True),
    st.data(),
)
def test_whoever_wins_is_never_materially_slower_than_the_fastest(variants: list[str], data: st.DataObject) -> None:
    p50 = {variant: data.draw(st.floats(5, 50), label=variant) for variant in variants}
    measured = timings(**{f"m_{variant.replace('-', '_')}": value for variant, value in p50.items()})

    winner, _ = choose([contender(f"m/{variant}") for variant in variants], measured, "latency")

    assert winner is not None
    assert p50[winner.removeprefix("m/")] <= min(p50.values()) * 1.04
