"""What the signature allows, and what a refusal says."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.packaging.format.manifest import (
    SCHEMA_VERSION,
    FeatureContract,
    FeatureField,
    FeatureView,
    InputPolicy,
    Manifest,
    Runtime,
    Signature,
    TensorSpec,
    Variant,
)
from tidegate.serving.model.validation import InputValidator
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.tensors import DTYPES

Attempt = Callable[[Callable[[], Any]], tuple[Any, int | None]]

MANIFEST = Manifest(
    schema_version=SCHEMA_VERSION,
    task="binary-classification",
    name="m",
    signature=Signature(
        inputs=(
            TensorSpec(name="carrier", datatype="BYTES", shape=(-1, 1), categories=("AA", "UA")),
            TensorSpec(name="gate", datatype="BYTES", shape=(-1, 1), nullable=True),
            TensorSpec(name="distance", datatype="FP32", shape=(-1, 1), minimum=100, maximum=200),
            TensorSpec(name="wind", datatype="FP32", shape=(-1, 1), nullable=True, minimum=0, maximum=9),
            TensorSpec(name="seats", datatype="INT64", shape=(-1, 1), minimum=1, maximum=500),
            TensorSpec(name="picture", datatype="FP32", shape=(-1, 2, 2)),
            TensorSpec(name="weather__temp", datatype="FP32", shape=(-1, 1), source="feature", nullable=True),
            TensorSpec(name="weather__rain", datatype="FP32", shape=(-1, 1), source="feature", nullable=True),
        ),
        outputs=(TensorSpec(name="probability", datatype="FP32", shape=(-1,)),),
    ),
    classes=("on-time", "late"),
    threshold=0.5,
    variant=Variant(name="baseline", candidate="trees"),
    runtime=Runtime(),
    metrics={},
    files={},
    features=FeatureContract(
        service="s",
        project="p",
        views=(
            FeatureView(
                name="weather",
                join_keys=("origin",),
                ttl_seconds=60,
                features=(FeatureField(name="temp", datatype="FP32"), FeatureField(name="rain", datatype="FP32")),
            ),
        ),
    ),
)


def text(*values: Any) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def good() -> dict[str, Any]:
    return {
        "origin": text("EWR", "JFK"),
        "carrier": text("AA", "UA"),
        "gate": text("a", "b"),
        "distance": np.array([150, 151], np.float32),
        "wind": np.array([1, 2], np.float32),
        "seats": np.array([100, 101], np.int64),
        "picture": np.zeros((2, 2, 2), np.float32),
    }


@pytest.fixture
def unusual() -> Counter[str]:
    return Counter()


@pytest.fixture
def validator(unusual: Counter[str]) -> InputValidator:
    return InputValidator(MANIFEST, max_rows=3, count_unusual=lambda name, values: unusual.update({name: values}))


def test_good_tensors_get_the_shapes_of_the_graph(validator: InputValidator, unusual: Counter[str]) -> None:
    checked = validator.check(good())
    assert checked.rows == 2
    assert checked.keys["origin"] == ["EWR", "JFK"]
    assert {name: array.shape for name, array in checked.tensors.items()} == {
        "carrier": (2, 1),
        "gate": (2, 1),
        "distance": (2, 1),
        "wind": (2, 1),
        "seats": (2, 1),
        "picture": (2, 2, 2),
    }
    assert not checked.features_given
    assert not unusual


FEATURES = {"weather__temp": np.zeros(2, np.float32), "weather__rain": np.zeros((2, 1), np.float32)}


def test_given_features_need_no_entity_keys(validator: InputValidator) -> None:
    tensors = good() | FEATURES
    del tensors["origin"]
    checked = validator.check(tensors)
    assert checked.features_given
    assert checked.tensors["weather__temp"].shape == (2, 1)
    assert checked.keys == {}


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"nope": text("a", "b")}, "tensor 'nope' is no input of this model; it takes origin, carrier", id="unknown"
        ),
        pytest.param({"carrier": None}, "tensor 'carrier' is missing; this model takes origin, carrier", id="missing"),
        pytest.param({"origin": None}, "tensor 'origin' is missing", id="missing key"),
        pytest.param({"distance": np.array([1, 2])}, "'distance' is INT64, but this model takes FP32", id="other datatype"),
        pytest.param({"distance": np.zeros(3, np.float32)}, "'distance' has 3 rows, but 'origin' has 2", id="other row count"),
        pytest.param({"distance": np.zeros((2, 2), np.float32)}, "shape [2, 2], but this model takes [-1, 1]", id="too wide"),
        pytest.param(
            {"picture": np.zeros((2, 4), np.float32)}, "shape [2, 4], but this model takes [-1, 2, 2]", id="other axes"
        ),
        pytest.param({"picture": np.zeros((2, 2, 3), np.float32)}, "takes [-1, 2, 2]", id="other size"),
        pytest.param({"carrier": text("AA", None)}, "'carrier' row 1 is null, but this input must be given", id="null text"),
        pytest.param({"distance": np.array([150, NAN], np.float32)}, "'distance' row 1 is null or NaN", id="NaN"),
        pytest.param(
            {"distance": np.array([np.inf, 1], np.float32)}, "'distance' row 0 is inf; it must be finite", id="infinite"
        ),
        pytest.param({"wind": np.array([1, -np.inf], np.float32)}, "'wind' row 1 is -inf", id="infinite and nullable"),
        pytest.param(
            {"origin": np.zeros(2, np.float32)}, "entity key 'origin' is FP32; it must be one of BYTES", id="float key"
        ),
        pytest.param(
            {"origin": text("a", "b", "c", "d").reshape(2, 2)}, "needs one value for each of the 2 rows", id="wide key"
        ),
        pytest.param(
            {"weather__temp": FEATURES["weather__temp"]}, "but not weather__rain; give all of them, or none", id="some features"
        ),
    ],
)
def test_what_does_not_fit_is_a_400(validator: InputValidator, change: dict[str, Any], message: str) -> None:
    tensors = {name: array for name, array in (good() | change).items() if array is not None}
    with pytest.raises(RequestError) as error:
        validator.check(tensors)
    assert error.value.status == 400
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(0, "the request holds no rows", id="none"),
        pytest.param(4, "the request holds 4 rows; at most 3 are allowed", id="too many"),
    ],
)
def test_the_number_of_rows_is_bounded(validator: InputValidator, rows: int, message: str) -> None:
    tensors = {name: np.resize(array, (rows, *array.shape[1:])) for name, array in good().items()}
    with pytest.raises(RequestError, match=message):
        validator.check(tensors)


def test_an_empty_request_is_a_400(validator: InputValidator) -> None:
    with pytest.raises(RequestError, match="holds no rows"):
        validator.check({})


def test_nulls_of_nullable_inputs_pass(validator: InputValidator) -> None:
    checked = validator.check(good() | {"gate": text(None, "b"), "wind": np.array([NAN, 1], np.float32)})
    assert checked.tensors["gate"].tolist() == [[""], ["b"]]
    assert np.isnan(checked.tensors["wind"][0, 0])


def test_a_null_key_passes_since_it_only_has_no_features(validator: InputValidator) -> None:
    assert validator.check(good() | {"origin": text("EWR", None)}).keys["origin"] == ["EWR", None]


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        pytest.param({"carrier": text("AA", "XX")}, {"carrier": 1}, id="unknown category"),
        pytest.param({"distance": np.array([99, 201], np.float32)}, {"distance": 2}, id="numbers outside their range"),
        pytest.param({"wind": np.array([NAN, 10], np.float32)}, {"wind": 1}, id="a null is not unusual"),
        pytest.param({"seats": np.array([0, 1])}, {"seats": 1}, id="integer outside its range"),
        pytest.param({"distance": np.array([100, 200], np.float32)}, {}, id="the range's ends belong to it"),
    ],
)
def test_what_training_never_held_is_counted(
    validator: InputValidator, unusual: Counter[str], change: dict[str, Any], counted: dict[str, int]
) -> None:
    validator.check(good() | change)
    assert unusual == counted


@pytest.mark.parametrize("rows", [pytest.param(1, id="one row"), pytest.param(2, id="two rows")])
@pytest.mark.parametrize("value", [150.0, 99.0, NAN, np.inf])
def test_one_row_is_judged_like_many(rows: int, value: float) -> None:
    counted: Counter[str] = Counter()
    validator = InputValidator(MANIFEST, max_rows=3, count_unusual=lambda name, values: counted.update({name: values}))
    tensors = {name: array[:rows] for name, array in (good() | {"distance": np.full(2, value, np.float32)}).items()}
    if np.isfinite(value):
        validator.check(tensors)
        assert counted["distance"] == (rows if value == 99 else 0)
    else:
        with pytest.raises(RequestError, match="'distance' row 0"):
            validator.check(tensors)


arrays = st.builds(
    lambda dtype, shape: np.zeros(shape, dtype) if dtype.kind != "O" else np.full(shape, "AA", object),
    st.sampled_from(list(DTYPES.values())),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*good(), *FEATURES, "nope"]), arrays))
def test_any_tensors_are_checked_or_a_400(attempt: Attempt, changes: dict[str, Any]) -> None:
    validator = InputValidator(MANIFEST, max_rows=3, count_unusual=lambda _name, _values: None)
    checked, status = attempt(lambda: validator.check(good() | changes))
    assert status == 400 or all(array.shape[0] == checked.rows for array in checked.tensors.values())


@pytest.mark.parametrize(
    ("policy", "length", "message"),
    [
        pytest.param(InputPolicy(), 9, None, id="counted"),
        pytest.param(InputPolicy(out_of_range="reject"), 4, None, id="as long as training's longest"),
        pytest.param(
            InputPolicy(out_of_range="reject"),
            5,
            "tensor 'tokens' axis 1 is 5 long, outside the trained range [2, 4]",
            id="refused",
        ),
    ],
)
def test_an_axis_of_another_length_is_a_matter_of_policy(policy: InputPolicy, length: int, message: str | None) -> None:
    tokens = TensorSpec(name="tokens", datatype="INT64", shape=(-1, -1), sizes=((2, 4),), policy=policy)
    signature = Signature(inputs=(tokens,), outputs=MANIFEST.signature.outputs)
    counted: Counter[str] = Counter()
    validator = InputValidator(
        msgspec.structs.replace(MANIFEST, signature=signature, features=None),
        max_rows=3,
        count_unusual=lambda name, rows: counted.update({name: rows}),
    )
    if message is None:
        assert validator.check({"tokens": np.zeros((1, length), np.int64)}).rows == 1
    else:
        with pytest.raises(RequestError) as error:
            validator.check({"tokens": np.zeros((1, length), np.int64)})
        assert str(error.value) == message
    assert counted == ({} if length <= 4 else {"tokens": 1})
