"""What a missing feature means."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tidegate.errors import FeatureError
from tidegate.packaging.format.manifest import Datatype, FeatureContract, FeatureField, FeatureView, Signature, TensorSpec
from tidegate.serving.model.lookup import FeatureLookup
from tidegate.serving.protocol.errors import RequestError

NOW = datetime(2013, 6, 1, tzinfo=UTC)
KEYS = {"origin": np.array(["EWR", "JFK"], object)}
FOUND, NOT_FOUND = "2013-06-01", "NaT"


def lookup_of(
    field: FeatureField, column: Any, times: Sequence[str], *, takes: Datatype | None = None
) -> tuple[Any, Counter[str]]:
    """Look the rows of KEYS up in a store that holds `column`, and return the model's input and the missing rows by view."""
    missing: Counter[str] = Counter()
    view = FeatureView(name="weather", join_keys=("origin",), ttl_seconds=60, features=(field,))
    spec = TensorSpec(name=f"weather__{field.name}", datatype=takes or field.datatype, shape=(-1, 1), source="feature")

    async def read(_keys: Mapping[str, Any], _at: datetime) -> Any:
        return SimpleNamespace(columns={spec.name: column}, times={"weather": np.array(times, "datetime64[us]")})

    lookup = FeatureLookup(
        FeatureContract(service="s", project="p", views=(view,)),
        Signature(inputs=(spec,), outputs=()),
        SimpleNamespace(waits=False, read=read),  # type: ignore[arg-type]
        lambda name, rows: missing.update({name: rows}),
    )
    return asyncio.run(lookup.read(KEYS, NOW)).tensors[spec.name], missing


NAN = float("nan")


TEMP = FeatureField(name="temp", datatype="FP32")
TEMP_9 = FeatureField(name="temp", datatype="FP32", default=9.0)
TEMP_REQUIRED = FeatureField(name="temp", datatype="FP32", required=True)
KIND = FeatureField(name="kind", datatype="BYTES")
KIND_Z = FeatureField(name="kind", datatype="BYTES", default="z")
COUNT = FeatureField(name="count", datatype="INT64")
COUNT_LESS_1 = FeatureField(name="count", datatype="INT64", default=-1)
FLOATS, NUMBERS = np.float32([1, 2]), np.array([5, 6])
BOTH, FIRST, SECOND = (FOUND, FOUND), (FOUND, NOT_FOUND), (NOT_FOUND, FOUND)


@pytest.mark.parametrize(
    ("field", "takes", "column", "times", "expected", "missing"),
    [
        pytest.param(TEMP, None, FLOATS, BOTH, [1.0, 2.0], 0, id="all found"),
        pytest.param(TEMP, None, FLOATS, FIRST, [1.0, None], 1, id="NaN without a default"),
        pytest.param(TEMP_9, None, FLOATS, FIRST, [1.0, 9.0], 1, id="default"),
        pytest.param(TEMP_9, None, np.float32([1, NAN]), BOTH, [1.0, 9.0], 0, id="default for a NaN in a row that was found"),
        pytest.param(TEMP_REQUIRED, None, FLOATS, BOTH, [1.0, 2.0], 0, id="required and found"),
        pytest.param(KIND, None, np.array(["a", None], object), BOTH, ["a", ""], 0, id="empty text for a null"),
        pytest.param(KIND_Z, None, np.array(["a", "b"], object), SECOND, ["z", "b"], 1, id="text default"),
        pytest.param(COUNT_LESS_1, None, NUMBERS, FIRST, [5, -1], 1, id="integer default"),
        pytest.param(COUNT, "FP32", NUMBERS, FIRST, [5.0, None], 1, id="integer that the graph takes as a float"),
    ],
)
def test_missing_features_are_filled(
    field: FeatureField, takes: Datatype | None, column: Any, times: Sequence[str], expected: list[Any], missing: int
) -> None:
    tensor, counted = lookup_of(field, column, times, takes=takes)
    assert tensor.shape == (2, 1)
    values = [None if value != value else value for value in tensor.ravel().tolist()]
    assert values == expected
    assert counted["weather"] == missing


@pytest.mark.parametrize(
    ("column", "times", "row"),
    [
        pytest.param(np.float32([1, 2]), (FOUND, NOT_FOUND), "origin=JFK (row 1)", id="no row"),
        pytest.param(np.float32([NAN, 2]), (FOUND, FOUND), "origin=EWR (row 0)", id="a NaN in a row that was found"),
    ],
)
def test_a_missing_required_feature_is_a_503(column: Any, times: Sequence[str], row: str) -> None:
    with pytest.raises(RequestError) as error:
        lookup_of(TEMP_REQUIRED, column, times)
    assert error.value.status == 503
    assert f"required feature weather:temp is missing for {row}" in str(error.value)


def test_a_store_that_fails_is_a_503() -> None:
    async def read(_keys: Mapping[str, Any], _at: datetime) -> Any:
        raise FeatureError("online store: locked")

    lookup = FeatureLookup(
        FeatureContract(service="s", project="p", views=()),
        Signature(inputs=(), outputs=()),
        SimpleNamespace(waits=False, read=read),  # type: ignore[arg-type]
        lambda _name, _rows: None,
    )
    with pytest.raises(RequestError, match="features could not be looked up: online store: locked") as error:
        asyncio.run(lookup.read(KEYS, NOW))
    assert error.value.status == 503
