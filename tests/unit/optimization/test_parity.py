import numpy as np
import pytest

from tidegate.optimization.parity import Parity, judge_parity, measure_parity
from tidegate.packaging.golden import Golden, read_golden
from tidegate.packaging.inference import PackageModel
from tidegate.project import ParityGate

GATE = ParityGate()


def test_the_known_wrong_export_fails_the_gate(candidates) -> None:
    package = candidates.packages.parent / "odd" / "wrong"

    parity = measure_parity(PackageModel(package), read_golden(package / "golden.npz"))

    verdicts = judge_parity("wrong/baseline", parity, GATE, reduced_precision=False)
    assert not verdicts[0].passed
    assert parity.max_absolute > 0.01


def test_the_difference_and_the_flips_are_those_that_were_put_in(candidates) -> None:
    package = candidates.packages / "mlp"
    model, golden = PackageModel(package), read_golden(package / "golden.npz")
    shifted = golden.outputs["probability"].copy()
    sure = int(np.argmax(shifted))
    shifted[sure] -= 0.9

    parity = measure_parity(model, Golden(golden.inputs, {"probability": shifted}))

    assert parity.max_absolute == pytest.approx(0.9, abs=1e-3)
    assert 0 < parity.flip_rate < 0.02


def test_a_row_answered_differently_on_its_own_is_found(candidates, monkeypatch: pytest.MonkeyPatch) -> None:
    package = candidates.packages / "mlp"
    model, golden = PackageModel(package), read_golden(package / "golden.npz")
    honest = model.outputs_of

    def wrong_alone(inputs: dict[str, np.ndarray]) -> np.ndarray:
        answers = honest(inputs)
        return answers + 0.5 if len(answers) == 1 else answers

    monkeypatch.setattr(model, "outputs_of", wrong_alone)

    assert measure_parity(model, golden).max_absolute == pytest.approx(0.5, abs=1e-4)


def test_an_output_that_is_no_number_fails(candidates, monkeypatch: pytest.MonkeyPatch) -> None:
    package = candidates.packages / "mlp"
    model, golden = PackageModel(package), read_golden(package / "golden.npz")
    monkeypatch.setattr(model, "outputs_of", lambda inputs: {"probability": np.full(len(inputs["hour"]), np.nan, np.float32)})

    verdict = judge_parity("m", measure_parity(model, golden), GATE, reduced_precision=True)[0]

    assert (verdict.passed, verdict.value) == (False, None)
    assert "not a number" in verdict.note


@pytest.mark.parametrize(
    ("parity", "reduced", "passed"),
    [
        pytest.param(Parity(1e-4, 0.001, 100), False, (True, True), id="at the bounds"),
        pytest.param(Parity(2e-4, 0.0, 100), False, (False, True), id="too far"),
        pytest.param(Parity(0.0, 0.002, 100), False, (True, False), id="too many flips"),
        pytest.param(Parity(2e-4, 0.002, 100), True, (True, True), id="fine for reduced precision"),
        pytest.param(Parity(0.06, 0.03, 100), True, (False, False), id="not even that"),
    ],
)
def test_bounds_depend_on_the_precision(parity: Parity, reduced: bool, passed: tuple[bool, bool]) -> None:
    verdicts = judge_parity("m", parity, GATE, reduced_precision=reduced)

    assert tuple(verdict.passed for verdict in verdicts) == passed
