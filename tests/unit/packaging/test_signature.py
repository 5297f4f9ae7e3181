import pyarrow as pa
import pytest

from tidegate.errors import DataError
from tidegate.packaging.manifest import FeatureContract, FeatureField, FeatureView
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
    ],
)
def test_a_sample_that_gives_no_signature_is_refused(rows: pa.Table, inputs: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        infer_inputs(rows, inputs, None)
