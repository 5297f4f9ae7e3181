"""PyTorch: modules and exported programs become graphs that answer as they do, and what cannot is refused in words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim

from tests.unit.packaging.sources.round_trip import accepted, round_trip
from tidegate.errors import PackageError
from tidegate.packaging.sources.torch_model import TorchModel
from tidegate.packaging.sources.torch_program import TorchProgram

torch.set_num_threads(1)
ROWS = 5
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((ROWS, 1, 6, 6))
TOKENS = RANDOM.integers(0, 9, (ROWS, 7))


class Function(nn.Module):
    """A module that computes what it is told to."""

    def __init__(self, compute: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.compute(self, x)


class Scored(nn.Module):
    """Two inputs, one optional one, and outputs in a dict with a tuple in it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(9, 4), nn.Linear(6, 4)

    def forward(self, tokens: torch.Tensor, features: torch.Tensor, weights: torch.Tensor | None = None) -> dict[str, Any]:
        state = self.embedding(tokens).mean(1) + self.linear(features)
        if weights is not None:
            state = state * weights
        return {"state": state, "parts": (state.sum(1), None), "large": state > 0}


ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU, "elu": nn.ELU}


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, np.ndarray]:
    """A small network over vectors, images or tokens, with a sample of its input."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    kind = draw(st.sampled_from(["vectors", "images", "tokens"]))
    widths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    activation = ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]
    layers: list[nn.Module] = []
    if kind == "images":
        size = width = draw(st.integers(1, 3))
        layers = [nn.Conv2d(1, size, 3, padding=1), activation(), nn.MaxPool2d(2), nn.BatchNorm2d(size), nn.Flatten()]
        width = size * 9
    elif kind == "tokens":
        width = 7 * 3
        layers = [nn.Embedding(9, 3), nn.Flatten()]
    else:
        width = 4
    for wide in widths:
        layers += [nn.Linear(width, wide), activation(), nn.Dropout(0.5)]
        width = wide
    sample = {"images": IMAGES, "tokens": TOKENS, "vectors": RANDOM.normal(size=(ROWS, 4))}[kind]
    return nn.Sequential(*layers), sample


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(network=networks())
def test_a_random_network_answers_the_same_in_batches_of_any_size(network: tuple[nn.Module, np.ndarray]) -> None:
    module, sample = network

    trip = round_trip(TorchModel(module, "network"), {"sample": sample})

    trip.assert_agrees()


def test_inputs_are_named_by_forward_and_outputs_by_what_it_returns() -> None:
    sample = {"features": RANDOM.random((ROWS, 6)), "tokens": TOKENS, "unread": np.arange(ROWS)}

    trip = round_trip(TorchModel(Scored(), "scored"), sample)

    assert {name: (spec.datatype, spec.shape) for name, spec in trip.by_name.items()} == {
        "tokens": ("INT64", (-1, 7)),
        "features": ("FP32", (-1, 6)),  # the sample's 64-bit floats become what the weights are
    }
    assert trip.outputs == {"state": ("FP32", (-1, 4)), "parts_0": ("FP32", (-1,)), "large": ("BOOL", (-1, 4))}
    trip.assert_agrees()


def test_an_optional_input_is_read_if_the_sample_has_it() -> None:
    sample = {"features": RANDOM.random((ROWS, 6)), "tokens": TOKENS, "weights": RANDOM.random((ROWS, 4))}

    trip = round_trip(TorchModel(Scored(), "scored"), sample)

    assert list(trip.by_name) == ["tokens", "features", "weights"]
    trip.assert_agrees()


def test_an_axis_that_is_named_as_varying_may_have_any_length() -> None:
    module = Function(lambda self, x: self.embedding(x).cumsum(1), embedding=nn.Embedding(9, 4))

    trip = round_trip(TorchModel(module, "tokens", varying={"tokens": [1]}), {"tokens": TOKENS})

    assert (trip.inputs[0].shape, trip.inputs[0].sizes) == ((-1, -1), ((1, 7),))
    trip.assert_agrees()
    for length in (1, 2, 6):
        trip.assert_agrees(arrays={"tokens": TOKENS[:, :length]})


def test_a_sample_of_one_row_is_enough() -> None:
    trip = round_trip(TorchModel(nn.Linear(4, 2), "linear"), {"x": RANDOM.random((1, 4))})

    trip.assert_agrees(arrays={"x": RANDOM.random((ROWS, 4)).astype(np.float32)})


def test_a_column_of_single_values_reaches_the_module_as_a_column() -> None:
    module = Function(lambda self, x: self.embedding(x).squeeze(1), embedding=nn.Embedding(9, 4))

    trip = round_trip(TorchModel(module, "users"), {"user": np.arange(ROWS)})

    assert trip.inputs[0].shape == (-1, 1)
    trip.assert_agrees()


def test_integers_of_a_table_are_floats_where_the_module_computes_with_floats() -> None:
    class Priced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 1)

        def forward(self, age: torch.Tensor, rooms: torch.Tensor) -> torch.Tensor:
            return self.linear(torch.cat([age, rooms], dim=1))

    trip = round_trip(
        TorchModel(Priced(), "priced"), {"age": np.arange(ROWS), "rooms": np.array([True, False, True, True, False])}
    )

    assert {name: spec.datatype for name, spec in trip.by_name.items()} == {"age": "FP32", "rooms": "FP32"}
    trip.assert_agrees()


def test_the_graph_says_nothing_of_the_machine_it_was_made_on() -> None:
    trip = round_trip(TorchModel(Function(lambda self, x: x + 1), "plain"), {"x": RANDOM.random((ROWS, 3))})

    written = trip.graph.SerializeToString()
    assert b"test_torch" not in written
    assert b"site-packages" not in written


def _program(module: nn.Module, example: dict[str, torch.Tensor], shapes: dict[str, Any]) -> torch.export.ExportedProgram:
    return torch.export.export(module.eval(), (), example, dynamic_shapes=shapes)


def test_an_exported_program_keeps_its_datatypes_and_varying_axes() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 4)

        def forward(self, user: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.embedding(user), self.embedding(tokens).cumsum(1)

    batch = Dim("batch", min=1, max=64)
    program = _program(
        Joined(),
        {"user": torch.zeros(3, dtype=torch.int64), "tokens": torch.zeros(3, 5, dtype=torch.int64)},
        {"user": {0: batch}, "tokens": {0: batch, 1: Dim("length", min=3, max=16)}},
    )

    trip = round_trip(TorchProgram(program, "joined"), {"user": np.arange(ROWS), "tokens": TOKENS.astype(np.int32)})

    assert {name: (spec.datatype, spec.shape, spec.sizes) for name, spec in trip.by_name.items()} == {
        "user": ("INT64", (-1, 1), ()),  # a vector of the program is a column of the package
        "tokens": ("INT64", (-1, -1), ((3, 7),)),
    }
    trip.assert_agrees()
    trip.assert_agrees(arrays={"user": trip.arrays["user"], "tokens": trip.arrays["tokens"][:, :3]})


def test_a_program_takes_a_column_of_another_name_and_a_batch_of_one() -> None:
    program = _program(nn.Linear(4, 2), {"input": torch.zeros(3, 4)}, {"input": {0: Dim.DYNAMIC}})

    trip = round_trip(TorchProgram(program, "linear"), {"features": RANDOM.random((ROWS, 4))})

    assert list(trip.by_name) == ["features"]
    trip.assert_agrees()


def _fixed_program() -> TorchProgram:
    return TorchProgram(_program(nn.Linear(4, 2), {"input": torch.zeros(3, 4)}, {"input": {}}), "fixed")


def _large_batch_program() -> TorchProgram:
    shapes = {"input": {0: Dim("batch", min=4, max=64)}}
    return TorchProgram(_program(nn.Linear(4, 2), {"input": torch.zeros(8, 4)}, shapes), "large")


VECTORS = {"x": RANDOM.random((ROWS, 4))}


@pytest.mark.parametrize(
    ("source", "sample", "said"),
    [
        pytest.param(_fixed_program, VECTORS, "takes exactly 3 rows; export the model with a first axis", id="fixed batch"),
        pytest.param(
            _large_batch_program, VECTORS, "it takes 4 rows at least; export it again", id="a batch of one is too few"
        ),
        pytest.param(
            lambda: TorchModel(Scored(), "scored"), VECTORS, "reads input 'tokens', which is not among x", id="no such input"
        ),
        pytest.param(
            lambda: TorchModel(nn.Linear(3, 2), "linear"), VECTORS, "it cannot predict the given rows", id="another width"
        ),
        pytest.param(
            lambda: TorchModel(nn.Linear(4, 2), "linear"),
            {"x": np.array(["a"] * ROWS, dtype=object)},
            "input 'x' is text, of which PyTorch has no tensors",
            id="text",
        ),
        pytest.param(
            lambda: TorchModel(nn.Linear(4, 2).bfloat16(), "linear"),
            VECTORS,
            "torch.bfloat16, which no signature",
            id="bfloat16",
        ),
        pytest.param(
            lambda: TorchModel(Function(lambda self, x: x.sum()), "sum"), VECTORS, "it needs one row for each", id="no rows"
        ),
        pytest.param(
            lambda: TorchModel(Function(lambda self, x: {"a": x, "b": "text"}), "words"),
            VECTORS,
            "output 'b' is a str; tensors, or dicts and tuples of them, are needed",
            id="no tensor",
        ),
        pytest.param(
            lambda: TorchModel(Function(lambda self, x: {"x": x * 2}), "same"),
            VECTORS,
            "'x' is an input and an output",
            id="name",
        ),
        pytest.param(
            lambda: TorchModel(Function(lambda self, x: x.view(4, 4) * 2), "four"),
            {"x": RANDOM.random((4, 4))},
            "torch.onnx cannot convert it: .*; the model works for one length of that axis only",
            id="works for one number of rows only",
        ),
        pytest.param(
            lambda: TorchModel(Function(lambda self, x: x * 2 if x.sum() > 0 else x), "if"),
            VECTORS,
            "torch.onnx cannot convert it: .*; the model decides by the values in its tensors: use torch.where",
            id="control flow that depends on data",
        ),
    ],
)
def test_what_cannot_be_packaged_is_refused(source: Callable[[], Any], sample: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(PackageError, match=said.replace("(", r"\(")) as refused:
        _convert(source(), sample)

    assert "\n" not in str(refused.value)


def _convert(source: Any, sample: dict[str, np.ndarray]) -> None:
    inputs, rows = accepted(source, sample)
    source.predict(rows)
    source.to_onnx(inputs, rows)


def test_a_module_is_run_for_inference_whatever_mode_it_was_left_in() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.BatchNorm1d(4)).train()

    trip = round_trip(TorchModel(module, "trained"), VECTORS)

    trip.assert_agrees()
    assert not module.training
