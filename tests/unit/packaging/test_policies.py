import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import DataError
from tidegate.packaging.format.manifest import InputPolicy, TensorSpec
from tidegate.packaging.format.policy_rules import policy_problem
from tidegate.packaging.policies import with_policies
from tidegate.packaging.signature import infer_inputs
from tidegate.project import InputRules, ValidationSection

ROWS = pa.table(
    {
        "carrier": ["UA", "AA", "UA", None, "DL"],
        "temp": [10.0, None, 30.0, -5.5, 20.0],
        "hour": [23, 0, 7, 7, 12],
        "image": [[1.0, 2.0], [3.0, 9.0], [0.0, 0.0], [5.0, 5.0], [7.0, 1.0]],
        "tail": [f"N{number}" for number in range(5)],
    }
)


def policies(rows: pa.Table = ROWS, **rules: Any) -> dict[str, InputPolicy]:
    inputs = infer_inputs(rows, rows.column_names, None)
    return {spec.name: spec.policy for spec in with_policies(inputs, rows, ValidationSection(**rules))}


def of(name: str, **rules: Any) -> dict[str, Any]:
    return {"inputs": {name: InputRules(**rules)}}


def test_without_rules_everything_is_counted() -> None:
    assert set(policies().values()) == {InputPolicy()}


def test_a_rule_for_all_holds_for_those_that_it_can_hold_for() -> None:
    found = policies(out_of_range="clamp", unknown_category="reject")

    numbers, texts = InputPolicy(out_of_range="clamp"), InputPolicy(unknown_category="reject")
    assert found == {"carrier": texts, "temp": numbers, "hour": numbers, "image": numbers, "tail": texts}


def test_what_is_missing_becomes_typical() -> None:
    found = policies(missing="impute")

    assert {name: policy.imputed for name, policy in found.items()} == {
        "carrier": "UA",  # the most frequent
        "temp": 10.0,  # the lower median of four
        "hour": 7,
        "image": 2.0,
        "tail": "N0",  # all are equally frequent
    }
    assert type(found["hour"].imputed) is int
    assert type(found["temp"].imputed) is float


def test_an_unknown_category_becomes_the_most_frequent_one() -> None:
    found = policies(unknown_category="impute")

    assert found["carrier"] == InputPolicy(unknown_category="impute", imputed="UA")
    assert found["temp"] == InputPolicy()


def test_a_rule_for_one_input_precedes_that_for_all() -> None:
    found = policies(out_of_range="reject", missing="impute", **of("temp", out_of_range="clamp", value=12))

    assert found["temp"] == InputPolicy(out_of_range="clamp", missing="impute", imputed=12.0)
    assert type(found["temp"].imputed) is float
    assert found["hour"] == InputPolicy(out_of_range="reject", missing="impute", imputed=7)


def test_a_looked_up_feature_has_none() -> None:
    feature = TensorSpec(
        name="hour", datatype="INT64", shape=(-1, 1), source="feature", feature="v:hour", minimum=0, maximum=23
    )

    (found,) = with_policies((feature,), ROWS, ValidationSection(out_of_range="reject", missing="impute"))

    assert found == feature


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        pytest.param(of("wind"), "'wind' is no request input; the model takes carrier, temp, hour", id="an unknown input"),
        pytest.param(of("carrier", out_of_range="clamp"), "'carrier' has no range", id="a text to clamp"),
        pytest.param(of("temp", unknown_category="reject"), "'temp' has no categories", id="a number with categories"),
        pytest.param(
            of("temp", missing="impute", value="warm"), "'temp' is FP32, which 'warm' is not", id="a text for a number"
        ),
        pytest.param(of("hour", missing="impute", value=7.5), "'hour' is INT64, which 7.5 is not", id="half an hour"),
        pytest.param(of("hour", missing="impute", value=24), "'hour' is imputed as 24, which lies outside", id="out of range"),
        pytest.param(of("carrier", missing="impute", value="ZZ"), "'ZZ', which is none of the categories", id="unheard of"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused(rules: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)) as refused:
        policies(**rules)
    assert "serving.validation" in str(refused.value)


def test_nothing_is_typical_of_nothing() -> None:
    rows = pa.table({"x": pa.array([None, None], pa.float64())})

    with pytest.raises(DataError, match=r"input 'x' is to be imputed, but there is no value for it; .*\.inputs\.x$"):
        policies(rows, missing="impute")
    assert policies(rows, missing="impute", **of("x", value=3.5))["x"].imputed == 3.5


@pytest.mark.parametrize("value", [0.1, 1e-40, -3.3e38, 16777217.0])
def test_what_is_typical_lies_within_the_range_whatever_the_datatype_rounds(value: float) -> None:
    rows = pa.table({"x": [value]})

    assert policies(rows, missing="impute")["x"].imputed == value


COLUMNS = {
    "floats": st.lists(st.none() | st.floats(-1e30, 1e30), min_size=1, max_size=20).map(lambda v: pa.array(v, pa.float64())),
    "halves": st.lists(st.floats(-60000, 60000, width=16), min_size=1, max_size=20).map(lambda v: pa.array(np.float16(v))),
    "integers": st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20).map(lambda v: pa.array(v, pa.int64())),
    "texts": st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=20).map(lambda v: pa.array(v, pa.string())),
    "flags": st.lists(st.none() | st.booleans(), min_size=1, max_size=20).map(lambda v: pa.array(v, pa.bool_())),
}


@pytest.mark.parametrize("kind", COLUMNS)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_policy_from_any_training_data_can_be_followed(kind: str, data: st.DataObject) -> None:
    column = data.draw(COLUMNS[kind])
    rows = pa.table({"x": column})
    if column.null_count == len(column) or (kind == "texts" and not any(column.to_pylist())):
        return
    rules = ValidationSection(out_of_range="clamp", unknown_category="impute", missing="impute")

    (spec,) = with_policies(infer_inputs(rows, ["x"], None), rows, rules)

    assert policy_problem(spec) is None
    assert spec.policy.imputed is not None
