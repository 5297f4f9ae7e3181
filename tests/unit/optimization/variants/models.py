"""Small graphs of the kinds that variants meet, built by hand, and packages of them, of task "tensors"."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
from onnx import helper, numpy_helper, parser

from tidegate.packaging.format.golden import Golden
from tidegate.packaging.format.manifest import (
    LABEL,
    SCHEMA_VERSION,
    Datatype,
    Manifest,
    Runtime,
    Signature,
    TensorSpec,
    Variant,
)
from tidegate.packaging.format.package import write_package
from tidegate.packaging.graph_packing import pack_graph
from tidegate.packaging.inputs import tensor_column

GOLDEN_ROWS, REFERENCE_ROWS = 48, 200
_DATATYPES: dict[str, Datatype] = {"float32": "FP32", "int64": "INT64", "object": "BYTES", "bool": "BOOL"}


def graph_of(text: str, weights: Mapping[str, np.ndarray], opset: int = 18) -> onnx.ModelProto:
    """A model from ONNX's text form of a graph, with initializers and node names."""
    graph = parser.parse_graph(text)
    graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32) if array.dtype == np.float64 else array, name)
        for name, array in weights.items()
    )
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def write_model(model: onnx.ModelProto, rows: Mapping[str, np.ndarray], to: Path) -> Path:
    """A baseline package of a graph: the first rows are golden, all others the reference."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    answers = dict(zip(names, session.run(names, dict(rows)), strict=True))
    table = pa.table({name: tensor_column(array[GOLDEN_ROWS:]) for name, array in {**rows, **answers}.items()})
    graph, packing = pack_graph(model, _specs(rows))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="tensors",
        task="tensors",
        signature=Signature(inputs=_specs(rows), outputs=_specs(answers)),
        variant=Variant(name="baseline", candidate="tensors"),
        runtime=Runtime(),
        metrics={},
        files={},
        packing=packing,
    )
    golden = Golden(
        {name: array[:GOLDEN_ROWS] for name, array in rows.items()},
        {name: array[:GOLDEN_ROWS] for name, array in answers.items()},
    )
    reference = table.append_column(LABEL, pa.nulls(table.num_rows, pa.float64()))
    write_package(to, manifest, model=graph.SerializeToString(), golden=golden, reference=reference)
    return to


def _specs(arrays: Mapping[str, np.ndarray]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, datatype=_DATATYPES[array.dtype.name], shape=(-1, *array.shape[1:]))
        for name, array in arrays.items()
    )


def floats(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.normal(size=shape) * scale).astype(np.float32)


def rows_of(rng: np.random.Generator, *shape: int) -> dict[str, np.ndarray]:
    return {"x": floats(rng, GOLDEN_ROWS + REFERENCE_ROWS, *shape)}


def dense(rng: np.random.Generator) -> onnx.ModelProto:
    """Two hidden layers, one as MatMul and Add with Tanh, one as transposed Gemm with Relu."""
    weights = {
        "w1": floats(rng, 6, 24, scale=0.4), "b1": floats(rng, 24), "w2": floats(rng, 16, 24, scale=0.3),
        "b2": floats(rng, 16), "w3": floats(rng, 16, 3, scale=0.3), "b3": floats(rng, 3),
    }  # fmt: skip
    return graph_of(
        """dense (float[n, 6] x) => (float[n, 3] scores) {
            m1 = MatMul(x, w1)   a1 = Add(m1, b1)   h1 = Tanh(a1)
            g2 = Gemm<transB = 1>(h1, w2, b2)   h2 = Relu(g2)
            m3 = MatMul(h2, w3)   a3 = Add(m3, b3)   scores = Softmax(a3)
        }""",
        weights,
    )


def convolutions(rng: np.random.Generator) -> onnx.ModelProto:
    """A small image classifier: convolution, normalization, pooling, convolution, dense."""
    weights = {
        "k1": floats(rng, 8, 1, 3, 3, scale=0.4), "k2": floats(rng, 16, 8, 3, 3, scale=0.15), "c2": floats(rng, 16, scale=0.1),
        "scale": 1 + floats(rng, 8, scale=0.1), "shift": floats(rng, 8, scale=0.1), "mean": floats(rng, 8, scale=0.1),
        "var": 1 + np.abs(floats(rng, 8, scale=0.1)), "w": floats(rng, 16, 10, scale=0.5), "b": floats(rng, 10),
    }  # fmt: skip
    return graph_of(
        """convolutions (float[n, 1, 8, 8] x) => (float[n, 10] scores) {
            f1 = Conv<pads = [1, 1, 1, 1]>(x, k1)   n1 = BatchNormalization(f1, scale, shift, mean, var)   r1 = Relu(n1)
            p1 = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r1)
            f2 = Conv<pads = [1, 1, 1, 1]>(p1, k2, c2)   r2 = Relu(f2)   g = GlobalAveragePool(r2)   flat = Flatten(g)
            d = Gemm(flat, w, b)   scores = Softmax(d)
        }""",
        weights,
    )


def transformer(rng: np.random.Generator) -> onnx.ModelProto:
    """One block on tokens of varying length: embedding, attention, layer norms, a feed-forward layer with GELU by Erf."""
    width, hidden = 16, 32
    weights = {"emb": floats(rng, 50, width), "w": floats(rng, width, 4, scale=0.5)}
    weights |= {name: floats(rng, width, width, scale=0.25) for name in ("wq", "wk", "wv", "wo")}
    weights |= {name: floats(rng, width, scale=0.1) for name in ("bq", "bk", "bv", "bo", "b2", "s0", "s1")}
    weights |= {"g0": 1 + floats(rng, width, scale=0.1), "g1": 1 + floats(rng, width, scale=0.1)}
    weights |= {
        "w1": floats(rng, width, hidden, scale=0.3),
        "b1": floats(rng, hidden),
        "w2": floats(rng, hidden, width, scale=0.2),
    }
    weights |= {
        "b1": floats(rng, hidden),
        "root": np.array(4.0),
        "sqrt2": np.array(2**0.5),
        "one": np.array(1.0),
        "half": np.array(0.5),
    }
    weights |= {"middle": np.array([1], dtype=np.int64)}
    return graph_of(
        """transformer (int64[n, t] tokens) => (float[n, 4] scores) {
            e = Gather(emb, tokens)   x = LayerNormalization(e, g0, s0)
            q0 = MatMul(x, wq)   q = Add(q0, bq)   k0 = MatMul(x, wk)   k = Add(k0, bk)   v0 = MatMul(x, wv)   v = Add(v0, bv)
            kt = Transpose<perm = [0, 2, 1]>(k)   qk = MatMul(q, kt)   scaled = Div(qk, root)   p = Softmax<axis = -1>(scaled)
            pv = MatMul(p, v)   o0 = MatMul(pv, wo)   o = Add(o0, bo)   r1 = Add(e, o)   y = LayerNormalization(r1, g1, s1)
            u0 = MatMul(y, w1)   u = Add(u0, b1)   ud = Div(u, sqrt2)   ue = Erf(ud)   ue1 = Add(ue, one)   uu = Mul(u, ue1)
            ug = Mul(uu, half)   d0 = MatMul(ug, w2)   d = Add(d0, b2)   r2 = Add(r1, d)
            m = ReduceMean<keepdims = 0>(r2, middle)   l = MatMul(m, w)   scores = Softmax(l)
        }""",
        weights,
    )


def attention(rng: np.random.Generator) -> onnx.ModelProto:
    """Self-attention of three heads over five steps, as its formula has it, and a dense layer on what it answers."""
    weights = {f"w{part}": floats(rng, 12, 12, scale=0.4) for part in "qkv"} | {f"b{part}": floats(rng, 12) for part in "qkv"}
    shapes = {"heads": [0, -1, 3, 4], "merged": [0, -1, 12]}
    weights |= {name: np.array(shape) for name, shape in shapes.items()} | {"root": np.array(2.0), "w": floats(rng, 12, 4)}
    return graph_of(
        """attention (float[n, 5, 12] x) => (float[n, 5, 4] scores) {
            q0 = MatMul(x, wq)   q = Add(q0, bq)   qs = Reshape(q, heads)   qh = Transpose<perm = [0, 2, 1, 3]>(qs)
            k0 = MatMul(x, wk)   k = Add(k0, bk)   ks = Reshape(k, heads)   kh = Transpose<perm = [0, 2, 1, 3]>(ks)
            v0 = MatMul(x, wv)   v = Add(v0, bv)   vs = Reshape(v, heads)   vh = Transpose<perm = [0, 2, 1, 3]>(vs)
            kt = Transpose<perm = [0, 1, 3, 2]>(kh)   qk = MatMul(qh, kt)   scaled = Div(qk, root)
            p = Softmax<axis = -1>(scaled)   o = MatMul(p, vh)   oh = Transpose<perm = [0, 2, 1, 3]>(o)
            merge = Reshape(oh, merged)   scores = MatMul(merge, w)
        }""",
        weights,
    )


def overflowing(rng: np.random.Generator) -> onnx.ModelProto:
    """In the middle are values of about 10⁶, which half precision has no number for; before and after it are ordinary ones."""
    weights = {
        "w1": floats(rng, 6, 16, scale=0.4), "b1": floats(rng, 16), "w2": floats(rng, 16, 16, scale=2e5),
        "small": np.array(1e-6), "w3": floats(rng, 16, 8, scale=0.5), "b3": floats(rng, 8), "w4": floats(rng, 8, 2),
    }  # fmt: skip
    return graph_of(
        """overflowing (float[n, 6] x) => (float[n, 2] scores) {
            m1 = MatMul(x, w1)   a1 = Add(m1, b1)   h1 = Relu(a1)
            m2 = MatMul(h1, w2)   r2 = Relu(m2)   h2 = Mul(r2, small)
            m3 = MatMul(h2, w3)   a3 = Add(m3, b3)   h3 = Relu(a3)   m4 = MatMul(h3, w4)   scores = Softmax(m4)
        }""",
        weights,
    )


def branching(rng: np.random.Generator) -> onnx.ModelProto:
    """A dense layer before an If, whose branches read what it computed, and hold a dense layer themselves."""
    weights = {"w1": floats(rng, 6, 8), "w2": floats(rng, 8, 3), "none": np.array(0.0), "w3": floats(rng, 3, 3)}
    return graph_of(
        """branching (float[n, 6] x) => (float[n, 3] scores) {
            h = MatMul(x, w1)   s = ReduceMax<keepdims = 0>(h)   c = Greater(s, none)
            y = If (c) <
                then_branch = g1 () => (float[n, 3] t) { t = MatMul(h, w2) },
                else_branch = g2 () => (float[n, 3] f) { a = Neg(h)   f = MatMul(a, w2) }
            >
            scores = MatMul(y, w3)
        }""",
        weights,
    )


def token_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"tokens": rng.integers(0, 50, size=(GOLDEN_ROWS + REFERENCE_ROWS, 12))}


def recurrent(rng: np.random.Generator) -> onnx.ModelProto:
    """An LSTM over five steps and a dense layer on its last state."""
    weights = {
        "w": floats(rng, 1, 32, 3, scale=0.4), "r": floats(rng, 1, 32, 8, scale=0.3), "b": floats(rng, 1, 64, scale=0.1),
        "out": floats(rng, 8, 2, scale=0.5), "first": np.array([0], dtype=np.int64),
    }  # fmt: skip
    return graph_of(
        """recurrent (float[n, 5, 3] x) => (float[n, 2] scores) {
            steps = Transpose<perm = [1, 0, 2]>(x)   every, last = LSTM<hidden_size = 8>(steps, w, r, b)
            h = Squeeze(last, first)   l = MatMul(h, out)   scores = Softmax(l)
        }""",
        weights,
    )


def cancelling(rng: np.random.Generator) -> onnx.ModelProto:
    """In the middle 3,000 are added and taken away again: no value is out of range, but half precision loses most of it."""
    weights = {
        "w1": floats(rng, 6, 16, scale=0.4), "b1": floats(rng, 16), "much": np.array(3000.0),
        "w2": floats(rng, 16, 8, scale=0.4), "b2": floats(rng, 8), "w3": floats(rng, 8, 2),
    }  # fmt: skip
    return graph_of(
        """cancelling (float[n, 6] x) => (float[n, 2] scores) {
            m1 = MatMul(x, w1)   a1 = Add(m1, b1)   h1 = Tanh(a1)
            up = Add(h1, much)   down = Sub(up, much)
            m2 = MatMul(down, w2)   a2 = Add(m2, b2)   h2 = Tanh(a2)   m3 = MatMul(h2, w3)   scores = Softmax(m3)
        }""",
        weights,
    )


def sensitive(rng: np.random.Generator) -> onnx.ModelProto:
    """A layer between two others subtracts large numbers from each other: 8 bits for its inputs are too few."""
    pair = floats(rng, 8, 1, scale=0.3)
    weights = {
        "w1": floats(rng, 6, 8, scale=0.3), "much": np.array(400.0), "pair": np.concatenate([pair, -pair]),
        "w3": floats(rng, 1, 2),
    }  # fmt: skip
    return graph_of(
        """sensitive (float[n, 6] x) => (float[n, 2] scores) {
            h = MatMul(x, w1)   t = Tanh(h)   a = Add(t, much)   b = Sub(much, t)   ab = Concat<axis = 1>(a, b)
            d = MatMul(ab, pair)   r = Tanh(d)   l = MatMul(r, w3)   scores = Softmax(l)
        }""",
        weights,
    )


def columns(rng: np.random.Generator) -> onnx.ModelProto:
    """Sixteen columns side by side, as from a table; their package feeds them as one matrix."""
    names = [f"c{number}" for number in range(16)]
    twice = floats(rng, 17, 6, scale=0.3).repeat(2, axis=1)  # every unit has a twin
    weights = {"w1": twice[1:], "b1": twice[0], "w2": floats(rng, 12, 2)}
    return graph_of(
        f"""columns ({", ".join(f"float[n, 1] {name}" for name in names)}) => (float[n, 2] scores) {{
            x = Concat<axis = 1>({", ".join(names)})   m = MatMul(x, w1)   a = Add(m, b1)   h = Relu(a)
            l = MatMul(h, w2)   scores = Softmax(l)
        }}""",
        weights,
    )


def column_rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {f"c{number}": floats(rng, GOLDEN_ROWS + REFERENCE_ROWS, 1) for number in range(16)}
