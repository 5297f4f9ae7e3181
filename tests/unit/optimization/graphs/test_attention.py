"""Self-attention becomes one operator where every part is in its place, and stays as it is anywhere else."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.unit.optimization.variants import models
from tidegate.optimization.graphs.attention import with_fused_attention

WIDTH, HEADS, TOKENS = 12, 3, 5
SCORES = "qk = MatMul(qh, kt)   scaled = Mul(qk, factor)   masked = Add(scaled, mask)"
UNTURNED = "qk = MatMul(qh, kh)   masked = Add(qk, mask)"
BLOCK = """attention (float[n, 5, 12] x, float[1, 1, 5, 5] mask) => (float[n, 5, 12] answers) {{
    q0 = MatMul(x, wq)   q = Add(q0, bq)   qs = Reshape({queries}, heads)   qh = Transpose<perm = [0, 2, 1, 3]>(qs)
    k0 = MatMul({keys_of}, wk)   k = Add(bk, k0)   ks = Reshape(k, heads)   kh = Transpose<perm = [0, 2, 1, 3]>(ks)
    v0 = MatMul(x, wv)   v = Add(v0, bv)   vs = Reshape(v, heads)   vh = Transpose<perm = [0, 2, 1, 3]>(vs)
    {transposed}
    {scores}   p = Softmax<axis = -1>(masked)
    o = MatMul(p, vh)   oh = Transpose<perm = [0, {apart}]>(o)   answers = Reshape(oh, merged)
}}"""
AS_EXPORTED = """
    flat = Reshape(kh, rows)   fk = Transpose<perm = [0, 2, 1]>(flat)   back = Reshape(fk, columns)   kt = Mul(back, factor)
"""


def block(**changes: str) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    weights = {name: models.floats(rng, WIDTH, WIDTH, scale=0.6) for name in ("wq", "wk", "wv")}
    weights |= {name: models.floats(rng, WIDTH, scale=0.5) for name in ("bq", "bk", "bv")}
    shapes = {"heads": [0, -1, 3, 4], "merged": [0, -1, 12], "rows": [-1, 5, 4], "columns": [-1, 3, 4, 5]}
    weights |= {name: np.array(shape) for name, shape in shapes.items()} | {
        "factor": np.array(0.5),
        "other": np.array([0.5] * 5),
    }
    parts = {"queries": "q", "keys_of": "x", "transposed": "kt = Transpose<perm = [0, 1, 3, 2]>(kh)", "scores": SCORES}
    text = BLOCK.format(**parts | {"apart": "2, 1, 3"} | changes)
    read = {name: array for name, array in weights.items() if name in text}
    return models.graph_of(text, read)


def answers(model: onnx.ModelProto, rows: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    mask = np.where(rng.random((1, 1, TOKENS, TOKENS)) < 0.3, -1e9, 0).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": models.floats(rng, rows, TOKENS, WIDTH), "mask": mask}
    return session.run(["answers"], {value.name: feeds[value.name] for value in session.get_inputs()})[0]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="keys transposed at once, scores scaled and masked"),
        pytest.param({"transposed": AS_EXPORTED}, id="keys flattened and scaled first, as PyTorch's exporter has it"),
        pytest.param({"transposed": "kt = Transpose<perm = [0, 2, 3, 1]>(ks)"}, id="keys transposed with their heads"),
        pytest.param({"scores": "qk = MatMul(qh, kt)   masked = Div(qk, factor)"}, id="scores divided, no mask"),
        pytest.param({"scores": "qk = MatMul(qh, kt)   masked = Add(mask, qk)"}, id="the mask first, no factor"),
    ],
)
def test_attention_becomes_one_operator_that_answers_the_same(changes: dict[str, str]) -> None:
    model = block(**changes)

    fused, blocks = with_fused_attention(model)

    assert blocks == 1
    assert [(node.op_type, node.domain) for node in fused.graph.node] == [("Attention", "com.microsoft")]
    assert next(entry.i for entry in fused.graph.node[0].attribute if entry.name == "num_heads") == HEADS
    assert {tensor.name for tensor in fused.graph.initializer} == {"answers weights", "answers biases"}
    for rows in (1, 4):
        np.testing.assert_allclose(answers(fused, rows), answers(model, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"keys_of": "q"}, id="keys of another sequence"),
        pytest.param({"queries": "q0"}, id="no bias"),
        pytest.param({"transposed": "kt = Transpose<perm = [0, 1, 2, 3]>(kh)", "scores": UNTURNED}, id="keys not transposed"),
        pytest.param({"scores": SCORES.replace("factor", "other")}, id="a factor for each token"),
        pytest.param({"apart": "1, 2, 3"}, id="heads are not put side by side"),
    ],
)  # fmt: skip
def test_anything_else_stays(changes: dict[str, str]) -> None:
    model = block(**changes)

    fused, blocks = with_fused_attention(model)

    assert blocks == 0
    assert not any(node.op_type == "Attention" for node in fused.graph.node)
