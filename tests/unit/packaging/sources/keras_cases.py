"""Keras models and SavedModels become graphs that answer as TensorFlow does, and what cannot is refused in words."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.unit.packaging.sources.round_trip import accepted, round_trip
from tidegate.errors import PackageError
from tidegate.packaging.sources.keras_model import KerasModel, SavedModel, read_keras, read_saved_model

ROWS = 5
RANDOM = np.random.default_rng(0)
IMAGES, EXTRA = RANDOM.random((ROWS, 6, 6, 1)), RANDOM.random((ROWS, 3))
BOTH = {"image": IMAGES, "extra": EXTRA}


@pytest.fixture(scope="module")
def two_headed() -> keras.Model:
    """Two inputs and two outputs: a small convolutional classifier beside a size."""
    keras.utils.set_random_seed(0)
    image, extra = keras.Input((6, 6, 1), name="image"), keras.Input((3,), name="extra")
    seen = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(image))
    joined = keras.layers.Dropout(0.5)(keras.layers.Concatenate()([seen, extra]))
    kind = keras.layers.Dense(3, activation="softmax", name="kind")(joined)
    return keras.Model([image, extra], [kind, keras.layers.Dense(1, name="size")(joined)])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_keeps_the_names_of_inputs_and_outputs(two_headed: keras.Model, tmp_path: Path, suffix: str) -> None:
    two_headed.save(tmp_path / f"model{suffix}")

    trip = round_trip(read_keras(tmp_path / f"model{suffix}"), BOTH)

    assert {name: (spec.datatype, spec.shape) for name, spec in trip.by_name.items()} == {
        "image": ("FP32", (-1, 6, 6, 1)),
        "extra": ("FP32", (-1, 3)),
    }
    assert trip.outputs == {"kind": ("FP32", (-1, 3)), "size": ("FP32", (-1, 1))}
    trip.assert_agrees()


def test_a_saved_model_is_read_by_its_signature(two_headed: keras.Model, tmp_path: Path) -> None:
    two_headed.export(tmp_path / "folder", verbose=False)

    trip = round_trip(read_saved_model(tmp_path / "folder"), BOTH)

    assert trip.source.facts.framework == "TensorFlow"
    assert list(trip.by_name) == ["extra", "image"]
    trip.assert_agrees()


def test_a_saved_model_without_keras_is_read_too(tmp_path: Path) -> None:
    class Scaled(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = tf.Variable([1.0, 2.0, 3.0])

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "features")])
        def score(self, features: Any) -> dict[str, Any]:
            return {"score": tf.reduce_sum(features * self.factor, axis=1)}

    module = Scaled()
    tf.saved_model.save(module, str(tmp_path / "folder"), signatures={"score": module.score})

    trip = round_trip(read_saved_model(tmp_path / "folder"), {"features": EXTRA})

    assert trip.outputs == {"score": ("FP32", (-1,))}
    trip.assert_agrees()


def _dense() -> keras.Model:
    layers = [keras.layers.Dense(5, activation="gelu"), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    return keras.Sequential([keras.layers.Input((3,)), *layers])


def _convolutional() -> keras.Model:
    layers = [
        keras.layers.SeparableConv2D(3, 3, padding="same", activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.LayerNormalization(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    return keras.Sequential([keras.layers.Input((6, 6, 1)), *layers])


@pytest.mark.parametrize(
    ("build", "sample"),
    [pytest.param(_dense, EXTRA, id="dense"), pytest.param(_convolutional, IMAGES, id="convolutional")],
)
def test_a_sequential_model_takes_the_only_column_and_answers_the_same(build: Callable[[], Any], sample: np.ndarray) -> None:
    keras.utils.set_random_seed(1)

    trip = round_trip(KerasModel(build(), "sequential"), {"measured": sample})

    assert (list(trip.by_name), list(trip.outputs)) == (["measured"], ["output"])
    trip.assert_agrees()


def test_dicts_vectors_and_varying_lengths() -> None:
    keras.utils.set_random_seed(2)
    user, tokens = keras.Input((), dtype="int64", name="user"), keras.Input((None,), dtype="int32", name="tokens")
    embedding = keras.layers.Embedding(9, 4)
    state = keras.layers.GlobalAveragePooling1D()(keras.layers.LSTM(3, return_sequences=True)(embedding(tokens)))
    model = keras.Model({"user": user, "tokens": tokens}, {"taste": embedding(user), "state": state})
    tokens_given = RANDOM.integers(0, 9, (ROWS, 7))

    trip = round_trip(KerasModel(model, "users"), {"user": np.arange(ROWS), "tokens": tokens_given})

    assert {name: (spec.datatype, spec.shape) for name, spec in trip.by_name.items()} == {
        "tokens": ("INT32", (-1, -1)),
        "user": ("INT64", (-1, 1)),
    }
    trip.assert_agrees()
    trip.assert_agrees(arrays={"tokens": trip.arrays["tokens"][:, :2], "user": trip.arrays["user"]})


def _subclassed() -> KerasModel:
    class Own(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    return KerasModel(Own(), "own")


def _unknown_layer(folder: Path) -> Any:
    @keras.saving.register_keras_serializable("tests")
    class Doubled(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    keras.Sequential([keras.layers.Input((3,)), Doubled()]).save(folder / "model.keras")
    keras.saving.get_custom_objects().clear()
    return read_keras(folder / "model.keras")


def _lambda(folder: Path) -> Any:
    keras.Sequential([keras.layers.Input((3,)), keras.layers.Lambda(lambda x: x * 2)]).save(folder / "model.keras")
    return read_keras(folder / "model.keras")


def _written(read: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    def write(folder: Path) -> Any:
        (folder / name).write_bytes(b"hello")
        return read(folder / name if name != "saved_model.pb" else folder)

    return write


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(lambda folder: _subclassed(), "it does not say what it reads; call it once on a batch", id="not built"),
        pytest.param(_unknown_layer, "Keras cannot load it: .*can be exported to a SavedModel", id="a layer of one's own"),
        pytest.param(_lambda, "Keras cannot load it", id="Python code in the file"),
        pytest.param(_written(read_keras, "model.keras"), "Keras cannot load it", id="no Keras file"),
        pytest.param(_written(read_keras, "model.h5"), "Keras cannot load it", id="no HDF5 file"),
        pytest.param(_written(read_saved_model, "saved_model.pb"), "TensorFlow cannot load it", id="no SavedModel"),
        pytest.param(
            lambda folder: SavedModel(tf.Module(), "module"),
            "its signatures are none; one called serving_default",
            id="signature",
        ),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path: Path, make: Callable[[Path], Any], said: str) -> None:
    with pytest.raises(PackageError, match=said) as refused:
        make(tmp_path)

    assert "\n" not in str(refused.value)


def test_a_part_without_a_converter_is_refused() -> None:
    city = keras.Input((1,), dtype="string", name="city")
    found = keras.layers.StringLookup(vocabulary=["a", "b"])(city)
    source = KerasModel(keras.Model(city, keras.layers.Embedding(5, 3)(found)), "cities")
    inputs, rows = accepted(source, {"city": np.array(["a", "b", "c"], dtype=object)})

    (answer,) = source.predict(rows).values()
    assert answer.shape == (3, 1, 3)
    with pytest.raises(PackageError, match="tf2onnx made a malformed graph of it"):
        source.to_onnx(inputs, rows)
