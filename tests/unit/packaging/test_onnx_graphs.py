import numpy as np

from tests.unit.optimization.variants import models
from tidegate.packaging.onnx_graphs import every_node, fresh_name, readers

RNG = np.random.default_rng(0)


def test_nodes_of_branches_are_seen() -> None:
    operators = [node.op_type for node in every_node(models.branching(RNG).graph)]

    assert operators.count("MatMul") == 4
    assert "Neg" in operators


def test_what_a_branch_reads_counts_as_read() -> None:
    reads = readers(models.branching(RNG).graph)

    assert (reads["h"], reads["w2"]) == (2, 1), "once by ReduceMax, once by the If, however often inside"
    assert reads["scores"] == 1, "the caller reads it"


def test_a_fresh_name_is_taken_at_once() -> None:
    taken = {"x"}

    assert [fresh_name("x", taken), fresh_name("x", taken), fresh_name("y", taken)] == ["x_", "x__", "y"]
