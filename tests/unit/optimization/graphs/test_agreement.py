import numpy as np
import pytest

from tidegate.optimization.graphs.agreement import agree

EXPECTED = np.array([0.0, 1.0, 100.0], dtype=np.float32)


@pytest.mark.parametrize(
    ("expected", "found", "agrees"),
    [
        pytest.param(EXPECTED, EXPECTED, True, id="equal"),
        pytest.param(EXPECTED, EXPECTED + np.float32(0.009), True, id="within the absolute bound"),
        pytest.param(EXPECTED, EXPECTED + np.float32([0.01, 0.015, 1.0]), True, id="within both bounds together"),
        pytest.param(EXPECTED, EXPECTED + np.float32([0.011, 0, 0]), False, id="a zero that moved too far"),
        pytest.param(EXPECTED, EXPECTED + np.float32([0, 0, 1.5]), False, id="a large value that moved too far"),
        pytest.param(EXPECTED, np.float32([0, 1, np.nan]), False, id="not a number"),
        pytest.param(EXPECTED, np.float32([0, 1, np.inf]), False, id="infinite"),
        pytest.param(np.float32([np.nan, 1]), np.float32([np.nan, 1]), True, id="not a number, as expected"),
        pytest.param(EXPECTED, EXPECTED[:, None], False, id="another shape"),
        pytest.param(np.array([1, 2]), np.array([1, 3]), False, id="another class"),
        pytest.param(np.array(["a"], dtype=object), np.array(["a"], dtype=object), True, id="text"),
    ],
)
def test_agreement(expected: np.ndarray, found: np.ndarray, agrees: bool) -> None:
    assert agree({"y": expected}, {"y": found}, max_absolute=0.01, max_relative=0.01) is agrees


def test_every_output_must_agree() -> None:
    outputs = {"a": EXPECTED, "b": EXPECTED}

    assert not agree(outputs, {"a": EXPECTED, "b": EXPECTED + 1}, max_absolute=0.1, max_relative=0)
