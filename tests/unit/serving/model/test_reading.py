"""The fast ways of reading decide nothing: they read what the exact way reads, or leave it to that."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.served_models import sent, tensor_of
from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.manifest import (
    SCHEMA_VERSION,
    FeatureContract,
    FeatureField,
    FeatureView,
    InputPolicy,
    Manifest,
    PackedInput,
    Runtime,
    Signature,
    TensorSpec,
    Variant,
)
from tidegate.packaging.running.packing import pack
from tidegate.serving.model.feeds import Feeder
from tidegate.serving.model.reading import Inputs, RequestReader
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.tensors import Array, Tensor, to_binary

Attempt = Callable[[Callable[[], Any]], tuple[Any, int | None]]


def column(name: str, datatype: Any = "FP32", **fields: Any) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, 1), **fields)


INPUTS = (
    column("carrier", "BYTES", categories=("AA", "UA")),
    column("distance", minimum=100, maximum=200),
    column("wind", nullable=True, minimum=0, maximum=9),
    column("seats", "INT64", minimum=1, maximum=500),
    column("stops", "INT64"),
    column("late", "BOOL"),
    column("note", "BYTES", nullable=True),
    column("weather__temp", source="feature", nullable=True),
    column("weather__sky", "BYTES", source="feature", nullable=True),
)
PACKING = (
    PackedInput(name="packed_fp32", datatype="FP32", columns=("wind", "weather__temp", "distance")),
    PackedInput(name="packed_int64", datatype="INT64", columns=("stops", "seats")),
)
FEATURES = FeatureContract(
    service="s",
    project="p",
    views=(
        FeatureView(
            name="weather",
            join_keys=("origin", "carrier"),
            ttl_seconds=60,
            features=(FeatureField(name="temp", datatype="FP32"), FeatureField(name="sky", datatype="BYTES")),
        ),
    ),
)


def manifest(
    inputs: tuple[TensorSpec, ...] = INPUTS,
    packing: tuple[PackedInput, ...] = PACKING,
    features: FeatureContract | None = FEATURES,
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        task="tensors",
        name="m",
        signature=Signature(inputs=inputs, outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1,)),)),
        variant=Variant(name="baseline", candidate="trees"),
        runtime=Runtime(),
        metrics={},
        files={},
        packing=packing,
        features=features,
    )


def text(*values: Any) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def rows(count: int) -> dict[str, Array]:
    return {
        "origin": text(*["EWR", "JFK", "LGA"][:count]),
        "carrier": text(*["AA", "UA", "AA"][:count]),
        "distance": np.array([150, 151, 152][:count], np.float32),
        "wind": np.array([1, 2.5, 3][:count], np.float32),
        "seats": np.array([100, 101, 102][:count]),
        "stops": np.array([0, -1, 2][:count]),
        "late": np.array([True, False, True][:count]),
        "note": text(*["a", "b", "c"][:count]),
    }


class Reading:
    """A reader, what it counted as unusual, and the feeds that come of what it read."""

    def __init__(self, manifest_: Manifest) -> None:
        self.unusual: Counter[str] = Counter()
        self.manifest = manifest_
        self.reader = RequestReader(manifest_, max_rows=3, count_unusual=lambda name, count: self.unusual.update({name: count}))
        self.feeder = Feeder(manifest_)

    def fast(self, tensors: list[Tensor]) -> Inputs:
        return self.reader.read(tensors)

    def exact(self, tensors: list[Tensor]) -> Inputs:
        return self.reader._exactly(tensors)

    def feeds(self, inputs: Inputs) -> dict[str, Array]:
        self.feeder.add_features(
            inputs,
            {
                "weather__temp": np.full((inputs.rows, 1), 20, np.float32),
                "weather__sky": np.full((inputs.rows, 1), "c", object),
            },
        )
        return self.feeder.feeds([inputs])


def assert_same(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def binary(name: str, array: Array) -> Tensor:
    tensor = tensor_of(name, array)
    tensor.data = memoryview(to_binary(array))
    return tensor


@pytest.mark.parametrize(
    ("count", "form"),
    [pytest.param(1, "row", id="one row"), pytest.param(2, "blocks", id="two"), pytest.param(3, "blocks", id="three")],
)
def test_usual_requests_are_read_the_fast_way_and_right(count: int, form: str) -> None:
    reading = Reading(manifest(tuple(spec for spec in INPUTS if spec.name != "late")))
    sent_rows = {name: array for name, array in rows(count).items() if name != "late"}
    inputs = reading.fast(sent(sent_rows))
    assert getattr(inputs, form) is not None
    assert dict(inputs.keys).keys() == {"origin", "carrier"}
    assert [*inputs.keys["origin"]] == sent_rows["origin"].tolist()
    assert [*inputs.keys["carrier"]] == sent_rows["carrier"].tolist()
    assert_same(reading.feeds(inputs), reading.feeds(reading.exact(sent(sent_rows))))
    assert not reading.unusual


def test_feeds_are_what_packing_makes_of_the_signatures_inputs() -> None:
    reading = Reading(manifest())
    feeds = reading.feeds(reading.fast(sent(rows(2))))
    given = {name: array.reshape(-1, 1) for name, array in rows(2).items() if name != "origin"}
    given |= {"weather__temp": np.full((2, 1), 20, np.float32), "weather__sky": np.full((2, 1), "c", object)}
    assert_same(feeds, pack(given, PACKING))


@pytest.mark.parametrize("sizes", [pytest.param((1, 1, 1), id="rows"), pytest.param((2, 1, 3), id="rows and blocks")])
def test_requests_are_joined_in_their_order(sizes: tuple[int, ...]) -> None:
    reading = Reading(manifest())
    requests = [reading.fast(sent(rows(size))) for size in sizes]
    alone = [reading.feeds(inputs) for inputs in requests]
    joined = reading.feeder.feeds(requests)
    assert_same(joined, {name: np.concatenate([feeds[name] for feeds in alone]) for name in joined})


def as_numbers(name: str, array: Array) -> Tensor:
    tensor = tensor_of(name, array)
    tensor.data = array.astype(np.float64)
    return tensor


@pytest.mark.parametrize("send", [pytest.param(binary, id="in binary"), pytest.param(as_numbers, id="in a large JSON body")])
def test_floats_are_read_into_one_matrix(send: Callable[[str, Array], Tensor]) -> None:
    inputs = tuple(column(f"x{index}", minimum=0, maximum=9) for index in range(3))
    packing = (PackedInput(name="packed", datatype="FP32", columns=("x2", "x0", "x1")),)
    reading = Reading(manifest(inputs, packing, None))
    values = np.arange(9, dtype=np.float32).reshape(3, 3)
    found = reading.fast([send(f"x{index}", values[index]) for index in (1, 0, 2)])
    assert found.blocks is not None
    np.testing.assert_array_equal(reading.feeder.feeds([found])["packed"], values[[2, 0, 1]].T)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("change", "counted"),
    [
        pytest.param({"carrier": "XX"}, {"carrier": 1}, id="unknown category"),
        pytest.param({"distance": np.float32(99)}, {"distance": 1}, id="below the range"),
        pytest.param({"distance": np.float32(200)}, {}, id="the range's end"),
        pytest.param({"seats": 501}, {"seats": 1}, id="integer above the range"),
        pytest.param({"wind": np.float32("nan")}, {}, id="a missing number where training had some"),
        pytest.param({"note": None}, {}, id="a missing text where training had some"),
    ],
)
def test_what_is_unusual_is_counted_and_read_exactly(count: int, change: dict[str, Any], counted: dict[str, int]) -> None:
    tensors = rows(count)
    for name, value in change.items():
        tensors[name][0] = value
    reading = Reading(manifest())
    found = reading.fast(sent(tensors))
    assert reading.unusual == counted
    again = Reading(manifest())
    assert_same(reading.feeds(found), again.feeds(again.exact(sent(tensors))))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"distance": [True]}, "tensor 'distance': Expected `float | null`, got `bool`", id="boolean as a float"),
        pytest.param({"distance": ["150"]}, "got `str`", id="text as a float"),
        pytest.param({"distance": [None]}, "'distance' row 0 is null or NaN, but this input must be given", id="null"),
        pytest.param({"distance": [1e39]}, "'distance' row 0 is inf; it must be finite in FP32", id="beyond the datatype"),
        pytest.param({"seats": [1.5]}, "tensor 'seats': Expected `int`, got `float`", id="fraction as an integer"),
        pytest.param({"seats": [True]}, "tensor 'seats': Expected `int`, got `bool`", id="boolean as an integer"),
        pytest.param({"seats": [2**70]}, "lies outside INT64", id="integer beyond the datatype"),
        pytest.param({"late": [1]}, "tensor 'late': Expected `bool`, got `int`", id="integer as a boolean"),
        pytest.param({"carrier": [3]}, "tensor 'carrier': Expected `str | null`, got `int`", id="integer as a text"),
        pytest.param({"carrier": [None]}, "'carrier' row 0 is null", id="null text"),
        pytest.param({"carrier": []}, "data holds", id="no values"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_what_does_not_fit_is_refused_whatever_its_way(count: int, change: dict[str, list[Any]], message: str) -> None:
    tensors = sent(rows(count))
    for tensor in tensors:
        if tensor.name in change:
            tensor.data = change[tensor.name] * count
    with pytest.raises(RequestError) as error:
        Reading(manifest()).fast(tensors)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda tensors: tensors.append(tensors[0]), "is given twice", id="twice"),
        pytest.param(lambda tensors: tensors.__setitem__(3, tensors[2]), "is given twice", id="twice, and another missing"),
        pytest.param(lambda tensors: tensors.pop(), "'note' is missing", id="missing"),
        pytest.param(lambda tensors: setattr(tensors[2], "name", "other"), "'other' is no input", id="unknown"),
        pytest.param(
            lambda tensors: setattr(tensors[2], "datatype", "FP64"), "is FP64, but this model takes FP32", id="datatype"
        ),
        pytest.param(lambda tensors: setattr(tensors[2], "shape", [1, 1, 1]), "has shape [1, 1, 1]", id="shape"),
    ],
)
def test_a_row_of_other_tensors_is_refused(spoil: Callable[[list[Tensor]], Any], message: str) -> None:
    tensors = sent(rows(1))
    spoil(tensors)
    with pytest.raises(RequestError) as error:
        Reading(manifest()).fast(tensors)
    assert message in str(error.value)


POLICIES = {
    "count": InputPolicy(),
    "clamp": InputPolicy(out_of_range="clamp", unknown_category="impute", missing="impute", imputed=150.0),
    "reject": InputPolicy(out_of_range="reject", unknown_category="reject"),
}


def with_policies(which: str) -> Manifest:
    policy = POLICIES[which]
    texts = InputPolicy(unknown_category=policy.unknown_category, missing=policy.missing, imputed="UA")
    inputs = (
        column("carrier", "BYTES", categories=("AA", "UA"), policy=texts),
        column("distance", minimum=100, maximum=200, nullable=True, policy=policy),
        column("seats", "INT64", minimum=1, maximum=500, policy=InputPolicy(out_of_range=policy.out_of_range)),
        column("stops", "INT64", minimum=-5, maximum=2**60, policy=InputPolicy(out_of_range=policy.out_of_range)),
    )
    return manifest(inputs, (), None)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("name", "sent_value", "read_value"),
    [
        pytest.param("distance", 250.0, 200.0, id="clamped to the upper bound"),
        pytest.param("distance", 5.0, 100.0, id="clamped to the lower bound"),
        pytest.param("distance", None, 150.0, id="a missing number is imputed, even where training had some"),
        pytest.param("carrier", "XX", "UA", id="an unknown category is imputed"),
        pytest.param("carrier", None, "UA", id="a missing text is imputed"),
        pytest.param("seats", 600, 500, id="an integer is clamped"),
        pytest.param("stops", 2**53 + 1, 2**53 + 1, id="a large integer within bounds is exact"),
        pytest.param("distance", 120.0, 120.0, id="what is usual stays"),
    ],
)
def test_a_policy_changes_what_the_graph_takes_but_not_what_was_sent(
    count: int, name: str, sent_value: Any, read_value: Any
) -> None:
    tensors = sent({key: array for key, array in rows(count).items() if key in ("carrier", "distance", "seats", "stops")})
    next(tensor for tensor in tensors if tensor.name == name).data[0] = sent_value
    reading = Reading(with_policies("clamp"))
    inputs = reading.fast(tensors)
    assert reading.feeder.feeds([inputs])[name][0, 0] == read_value
    logged = (
        reading.feeder.row_as_sent(inputs)[["carrier", "distance", "seats", "stops"].index(name)]
        if count == 1
        else ((reading.feeder.columns(inputs) | dict(inputs.as_sent))[name].ravel()[0])
    )
    assert logged == sent_value or (sent_value is None and (logged is None or logged != logged))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        pytest.param("distance", 250.0, "'distance' row 0 is 250, outside the trained range [100, 200]", id="number"),
        pytest.param("seats", 0, "'seats' row 0 is 0, outside the trained range [1, 500]", id="integer"),
        pytest.param(
            "carrier", "XX", "'carrier' row 0 is 'XX', which is none of the trained categories: 'AA', 'UA'", id="text"
        ),
        pytest.param("carrier", "x" * 500, f"row 0 is '{'x' * 40}…', which", id="a long text is cut"),
    ],
)
def test_a_policy_may_refuse(count: int, name: str, value: Any, message: str) -> None:
    tensors = sent({key: array for key, array in rows(count).items() if key in ("carrier", "distance", "seats", "stops")})
    next(tensor for tensor in tensors if tensor.name == name).data[0] = value
    reading = Reading(with_policies("reject"))
    with pytest.raises(RequestError) as error:
        reading.fast(tensors)
    assert error.value.status == 400
    assert message in str(error.value)
    assert reading.unusual == {name: 1}


numbers = st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats(allow_nan=False) | st.text(max_size=2)
anything = numbers | st.lists(numbers, max_size=2)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 2),
    st.dictionaries(st.sampled_from(["origin", "carrier", "distance", "wind", "seats", "late", "note"]), anything, max_size=3),
    st.sampled_from([*NUMPY_TYPES, None, None, None]),
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_the_fast_way_reads_what_the_exact_way_reads(
    attempt: Attempt, count: int, changes: dict[str, Any], datatype: str | None
) -> None:
    def tensors() -> list[Tensor]:
        found = sent(rows(count))
        for tensor in found:
            if tensor.name in changes:
                tensor.data = [changes[tensor.name], *tensor.data[1:]]
                tensor.datatype = datatype or tensor.datatype
        return found

    fast, exact = Reading(manifest()), Reading(manifest())
    found, status = attempt(lambda: fast.fast(tensors()))
    expected, expected_status = attempt(lambda: exact.exact(tensors()))
    assert status == expected_status
    assert fast.unusual == exact.unusual
    if expected is not None:
        assert [*found.keys["origin"]] == [*expected.keys["origin"]]
        assert_same(fast.feeds(found), exact.feeds(expected))
