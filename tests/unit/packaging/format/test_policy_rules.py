from typing import Any

import msgspec
import pytest

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import InputPolicy, Manifest, Signature, TensorSpec
from tidegate.packaging.format.manifest_rules import check_manifest
from tidegate.packaging.format.policy_rules import policy_problem

NUMBER: dict[str, Any] = {"datatype": "FP32", "minimum": -5.0, "maximum": 40.0}
COUNT: dict[str, Any] = {"datatype": "INT8", "minimum": 0, "maximum": 100}
TEXT: dict[str, Any] = {"datatype": "BYTES", "categories": ("AA", "UA")}
FLAG: dict[str, Any] = {"datatype": "BOOL"}
FEATURE: dict[str, Any] = {**NUMBER, "source": "feature", "feature": "weather:temp"}


def spec(fields: dict[str, Any], **policy: Any) -> TensorSpec:
    return TensorSpec(name="x", shape=(-1, 1), policy=InputPolicy(**policy), **fields)


def imputed(value: object) -> dict[str, Any]:
    return {"missing": "impute", "imputed": value}


@pytest.mark.parametrize(
    ("fields", "policy"),
    [
        pytest.param(NUMBER, {}, id="none"),
        pytest.param(FEATURE, {}, id="none of a feature"),
        pytest.param(NUMBER, {"out_of_range": "clamp"}, id="clamped"),
        pytest.param(COUNT, {"out_of_range": "reject"}, id="refused"),
        pytest.param(TEXT, {"unknown_category": "reject"}, id="an unknown category refused"),
        pytest.param(TEXT, {"unknown_category": "impute", "imputed": "AA"}, id="an unknown category imputed"),
        pytest.param(NUMBER, imputed(40.0), id="the greatest number"),
        pytest.param(NUMBER, imputed(-5), id="a whole number for a float"),
        pytest.param(COUNT, imputed(7), id="a whole number"),
        pytest.param(TEXT, imputed("UA"), id="a category"),
        pytest.param({"datatype": "BYTES"}, imputed(""), id="any text where training held too many"),
        pytest.param(FLAG, imputed(True), id="a flag"),
        pytest.param({"datatype": "FP64"}, imputed(1e300), id="a number of no known range"),
    ],
)
def test_a_policy_that_can_be_followed(fields: dict[str, Any], policy: dict[str, Any]) -> None:
    assert policy_problem(spec(fields, **policy)) is None


@pytest.mark.parametrize(
    ("fields", "policy", "says"),
    [
        pytest.param(FEATURE, {"out_of_range": "clamp"}, "is looked up", id="of a feature"),
        pytest.param(TEXT, {"out_of_range": "clamp"}, "has no range", id="a text to clamp"),
        pytest.param({"datatype": "FP32"}, {"out_of_range": "reject"}, "has no range", id="no range to refuse by"),
        pytest.param(NUMBER, {"unknown_category": "reject"}, "has no categories", id="a number of unknown category"),
        pytest.param({"datatype": "BYTES"}, {"unknown_category": "reject"}, "has no categories", id="too many categories"),
        pytest.param(NUMBER, imputed(None), "there is no value for it", id="nothing to impute"),
        pytest.param(NUMBER, {"imputed": 1.0}, "nothing is ever imputed", id="a value for nothing"),
        pytest.param(NUMBER, imputed("1"), "is FP32, which '1' is not", id="a text for a number"),
        pytest.param(NUMBER, imputed(True), "is FP32, which True is not", id="a flag for a number"),
        pytest.param(COUNT, imputed(1.0), "is INT8, which 1.0 is not", id="a float for a whole number"),
        pytest.param({"datatype": "INT8"}, imputed(128), "is INT8, which 128 is not", id="more than the datatype holds"),
        pytest.param({"datatype": "UINT8"}, imputed(-1), "is UINT8, which -1 is not", id="less than the datatype holds"),
        pytest.param({"datatype": "FP16"}, imputed(1e6), "is FP16, which 1000000.0 is not", id="more than half precision"),
        pytest.param(FLAG, imputed(1), "is BOOL, which 1 is not", id="a number for a flag"),
        pytest.param(TEXT, imputed(1), "is BYTES, which 1 is not", id="a number for a text"),
        pytest.param(NUMBER, imputed(41.0), "lies outside what training held, -5 to 40", id="beyond the range"),
        pytest.param(TEXT, imputed("ZZ"), "'ZZ', which is none of the categories", id="an unknown category as the value"),
    ],
)
def test_a_policy_that_cannot(fields: dict[str, Any], policy: dict[str, Any], says: str) -> None:
    problem = policy_problem(spec(fields, **policy))

    assert problem is not None
    assert says in problem


def test_a_package_with_a_policy_that_cannot_be_followed_is_refused(handmade: Manifest) -> None:
    broken = Signature(inputs=(spec(NUMBER, imputed=1.0),), outputs=handmade.signature.outputs)

    with pytest.raises(PackageError, match=r"^here: signature.inputs: policy: 'x' has the value 1.0"):
        check_manifest(msgspec.structs.replace(handmade, signature=broken), "here")


def test_an_output_with_a_policy_is_refused(handmade: Manifest) -> None:
    (output, *_) = handmade.signature.outputs
    broken = msgspec.structs.replace(output, policy=InputPolicy(missing="impute", imputed=1.0))

    with pytest.raises(PackageError, match=r"^here: signature.outputs: policy: 'probability' is an output"):
        check_manifest(
            msgspec.structs.replace(handmade, signature=Signature(inputs=handmade.signature.inputs, outputs=(broken,))), "here"
        )


@pytest.fixture
def handmade(make_package: Any) -> Manifest:
    from tidegate.packaging.format.package import read_manifest

    return read_manifest(make_package())
