from typing import Any

import numpy as np
import pytest

from tidegate.optimization.gates.output_size import output_size


@pytest.mark.parametrize(
    ("name", "task", "expected", "size"),
    [
        pytest.param("probability", "binary-classification", [0.01, 0.02], 1.0, id="a probability"),
        pytest.param("probabilities", "multiclass-classification", [[0.01, 0.99]], 1.0, id="probabilities"),
        pytest.param("prediction", "regression", [-4.0, 2.0, 9.0], 4.0, id="a prediction"),
        pytest.param("prediction", "regression", [[4.0, 0.1], [2.0, 0.3], [9.0, 0.2]], [4.0, 0.2], id="several targets"),
        pytest.param("y", "tensors", [[1.0, -3.0], [2.0, 0.5], [1.0, 1.0]], 2.0, id="each row's largest magnitude"),
        pytest.param("y", "tensors", [[[1.0], [-3.0]]], 3.0, id="of any rank"),
        pytest.param("y", "tensors", np.array([2.0, 4.0, 4.0], np.float16), 4.0, id="half precision"),
        pytest.param("probability", "tensors", [0.01, 0.02, 0.02], 0.02, id="a name means nothing without a task"),
        pytest.param("hidden", "binary-classification", [5.0, 5.0], 5.0, id="beside the score"),
        pytest.param("y", "tensors", [0.0, 0.0, 0.0, 7.0], 7.0, id="zeros say nothing"),
        pytest.param("y", "tensors", [0.0, 0.0], 1.0, id="nothing but zeros"),
        pytest.param("y", "tensors", [1.0, 1.0, 1e30, np.inf, np.nan], 1.0, id="neither do a few extremes"),
        pytest.param("y", "tensors", np.zeros((3, 0)), 1.0, id="no value a row"),
    ],
)
def test_sizes(name: str, task: Any, expected: Any, size: Any) -> None:
    assert output_size(name, np.asarray(expected), task).tolist() == size
