import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import DataError
from tidegate.packaging.format.manifest import FeatureContract, FeatureField, FeatureView
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.signature import infer_inputs


def contract(field: FeatureField) -> FeatureContract:
    view = FeatureView(name="plane", join_keys=("tail",), ttl_seconds=0, features=(field,))
    return FeatureContract(service="s", project="p", views=(view,))


def test_inputs_carry_what_training_held() -> None:
    rows = pa.table({"hour": [1.5, 9.0, float("inf")], "carrier": ["UA", None, "AA"], "plane__seats": [100, 200, 300]})

    inputs = infer_inputs(rows, ["hour", "carrier"], contract(FeatureField(name="seats", datatype="INT64", required=True)))

    hour, carrier, seats = inputs
    assert (hour.datatype, hour.minimum, hour.maximum, hour.nullable, hour.shape) == ("FP32", 1.5, 9.0, False, (-1, 1))
    assert (carrier.datatype, carrier.categories, carrier.nullable) == ("BYTES", ("AA", "UA"), True)
    assert (seats.datatype, seats.source, seats.feature, seats.nullable) == ("INT64", "feature", "plane:seats", False)


@pytest.mark.parametrize(
    ("field", "datatype", "nullable"),
    [
        pytest.param(FeatureField(name="seats", datatype="INT64", required=True), "INT64", False, id="required"),
        pytest.param(FeatureField(name="seats", datatype="INT64", default=0), "INT64", False, id="with a default"),
        pytest.param(FeatureField(name="seats", datatype="INT64"), "FP32", True, id="optional: may be missing online"),
    ],
)
def test_an_integer_feature_stays_an_integer_only_if_it_is_never_missing(
    field: FeatureField, datatype: str, nullable: bool
) -> None:
    inputs = infer_inputs(pa.table({"plane__seats": [1, 2]}), [], contract(field))

    assert (inputs[0].datatype, inputs[0].nullable) == (datatype, nullable)


def test_more_than_a_thousand_categories_are_not_listed() -> None:
    inputs = infer_inputs(pa.table({"tail": [f"N{n}" for n in range(1_001)]}), ["tail"], None)

    assert inputs[0].categories is None


@pytest.mark.parametrize(
    ("rows", "inputs", "said"),
    [
        pytest.param(pa.table({"hour": pa.array([], pa.float32())}), ["hour"], "holds no rows", id="empty"),
        pytest.param(pa.table({"hour": [1.0]}), ["minute"], "column 'minute' is missing", id="missing column"),
        pytest.param(pa.table({"probability": [1.0]}), ["probability"], "rename", id="the output's name"),
        pytest.param(pa.table({"late": [1]}), ["late"], "'late' is the label column, which is not known", id="the label"),
        pytest.param(pa.table({"late": [1]}), [], "the model has no inputs", id="nothing but the label"),
        pytest.param(pa.table({"on": pa.array([0], pa.date32())}), ["on"], "'on' has type date32.* give numbers", id="a date"),
        pytest.param(pa.table({"x": [[1.0], [1.0, 2.0]]}), ["x"], "lists of different lengths", id="ragged lists"),
    ],
)
def test_a_sample_that_gives_no_signature_is_refused(rows: pa.Table, inputs: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        infer_inputs(rows, inputs, None, label="late")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        pytest.param(
            pa.array([1.0, float("nan")]), {"datatype": "FP32", "nullable": True, "maximum": 1.0}, id="missing as NaN"
        ),
        pytest.param(pa.array([True, False]), {"datatype": "INT64", "minimum": 0.0, "maximum": 1.0}, id="flags"),
        pytest.param(pa.array([2**60, 3]), {"datatype": "INT64", "maximum": float(2**60)}, id="large whole numbers"),
        pytest.param(pa.array([3, 4]).dictionary_encode(), {"datatype": "INT64", "maximum": 4.0}, id="dictionary of numbers"),
        pytest.param(pa.array(["b", "a"]).dictionary_encode(), {"categories": ("a", "b")}, id="dictionary of text"),
        pytest.param(pa.nulls(2), {"datatype": "FP32", "nullable": True, "minimum": None}, id="nothing known"),
        pytest.param(
            pa.array([[1.0, 5.0]]), {"shape": (-1, 2), "datatype": "FP64", "minimum": 1.0, "maximum": 5.0}, id="lists"
        ),
        pytest.param(pa.array([[[1], [2]]]), {"shape": (-1, 2, 1), "datatype": "INT64", "maximum": 2.0}, id="nested lists"),
    ],
)
def test_a_column_says_what_it_held(column: pa.Array, expected: dict[str, object]) -> None:
    spec = infer_inputs(pa.table({"x": column}), ["x"], None)[0]

    assert {name: getattr(spec, name) for name in expected} == expected


SCALARS = st.one_of(
    st.lists(st.one_of(st.none(), st.floats()), min_size=1),
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=1),
    st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=5)), min_size=1),
    st.lists(st.booleans(), min_size=1),
)


@given(st.lists(SCALARS, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_any_rows_are_read_as_their_own_signature_says(columns: list[list]) -> None:
    longest = max(map(len, columns))
    table = pa.table({f"c{place}": (values * longest)[:longest] for place, values in enumerate(columns)})

    inputs = infer_inputs(table, table.column_names, None)
    arrays = input_arrays(table, inputs)

    for spec in inputs:
        array = arrays[spec.name]
        assert array.shape == (longest, 1)
        if spec.datatype == "BYTES":
            assert spec.categories is not None
            assert set(array.ravel()) <= {*spec.categories, ""}
        elif spec.minimum is not None:
            finite = array[np.isfinite(array)].astype(np.float64)
            assert np.all(finite >= np.nextafter(np.float32(spec.minimum), np.float32(-np.inf)))
            assert np.all(finite <= np.nextafter(np.float32(spec.maximum), np.float32(np.inf)))
        assert spec.nullable == (table[spec.name].null_count > 0 or bool(spec.datatype == "FP32" and np.isnan(array).any()))
