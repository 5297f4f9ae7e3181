"""What a value becomes on its way through the server, value by value: JSON and binary, every datatype, v2 and v1."""

import json
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests import small_packages
from tests.integration.serving.http_exchange import JSON, Response, ask

USUAL = dict.fromkeys((datatype.lower() for datatype in small_packages.NUMBER_TYPES), "1, 1") | {
    "bool": "true, false",
    "bytes": '"a", "b"',
}


@pytest.fixture(scope="module")
def echo(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> int:
    """The port of a server that answers every datatype as it was sent, [-1, 2]."""
    port: int = launch_once(small_packages.every_type(tmp_path_factory.mktemp("echo") / "package"), grpc_port=0).http_port
    return port


def infer(port: int, name: str, data: str, shape: str = "[1, 2]") -> Response:
    """Send `data`, JSON as it is written, for the input `name`, and something usual for all others; ask for this one back."""
    tensors = [
        f'{{"name": "{one}", "datatype": "{one.upper()}", "shape": {shape if one == name else "[1, 2]"}, '
        f'"data": {data if one == name else f"[{usual}]"}}}'
        for one, usual in USUAL.items()
    ]
    body = f'{{"inputs": [{", ".join(tensors)}], "outputs": [{{"name": "same {name}"}}]}}'
    return ask(port, "POST", "/v2/models/echo/infer", body.encode(), JSON)


@pytest.mark.parametrize(
    ("name", "sent", "answered"),
    [
        pytest.param("fp64", "[1e308, -0.0]", "[1e308,-0.0]", id="negative zero"),
        pytest.param("fp64", "[1, 2]", "[1.0,2.0]", id="integers for floats"),
        pytest.param(
            "fp64",
            "[9007199254740993, 123456789012345678901234567890]",
            "[9007199254740992.0,1.2345678901234568e29]",
            id="integers beyond a float's digits",
        ),
        pytest.param("fp64", "[1e-400, 5e-324]", "[0.0,5e-324]", id="underflow and the least denormal"),
        pytest.param("fp64", "[0.1, 0.30000000000000004]", "[0.1,0.30000000000000004]", id="doubles to the last digit"),
        pytest.param(
            "fp32", "[16777217, 0.1]", "[16777216.0,0.10000000149011612]", id="floats of 32 bits are rounded to nearest"
        ),
        pytest.param(
            "fp32", "[3.4028235e38, -3.4028235e38]", "[3.4028234663852886e38,-3.4028234663852886e38]", id="largest FP32"
        ),
        pytest.param("fp16", "[65504, 1.0009765625]", "[65504.0,1.0009765625]", id="largest FP16"),
        pytest.param("fp16", "[2049, 2051]", "[2048.0,2052.0]", id="FP16 is rounded to even"),
        pytest.param("fp16", "[6e-8, -0.0]", "[5.960464477539063e-8,-0.0]", id="least denormal FP16"),
        pytest.param("int8", "[-128, 127]", "[-128,127]", id="ends of INT8"),
        pytest.param("uint8", "[0, 255]", "[0,255]", id="ends of UINT8"),
        pytest.param(
            "int64",
            "[-9223372036854775808, 9223372036854775807]",
            "[-9223372036854775808,9223372036854775807]",
            id="ends of INT64",
        ),
        pytest.param("uint64", "[18446744073709551615, 0]", "[18446744073709551615,0]", id="ends of UINT64"),
        pytest.param("int32", "[-0, 7]", "[0,7]", id="an integer has no negative zero"),
        pytest.param("bool", "[true, false]", "[true,false]", id="BOOL"),
        pytest.param(
            "bytes", r'["\u0000", "\u2603 \ud83d\ude00"]', '["\\u0000","☃ \U0001f600"]', id="escapes become characters"
        ),
        pytest.param("bytes", r'["", "\"\\\/\n"]', r'["","\"\\/\n"]', id="empty text and escapes"),
        pytest.param("fp32", "[[1, 2]]", "[1.0,2.0]", id="nested data is answered flat"),
        pytest.param("fp32", " [ 1 ,\n2 ] ", "[1.0,2.0]", id="white space"),
    ],
)
def test_a_value_comes_back_as(echo: int, name: str, sent: str, answered: str) -> None:
    response = infer(echo, name, sent)
    assert response.status == 200, response.body
    assert response.headers["content-type"] == "application/json"
    assert response.body.decode().endswith(f'"datatype":"{name.upper()}","shape":[1,2],"data":{answered}}}]}}')


@pytest.mark.parametrize(
    ("name", "sent", "said"),
    [
        pytest.param("fp64", "[1e400, 1]", "umber out of range", id="beyond a double"),
        pytest.param("fp32", "[1, 1e39]", "tensor 'fp32' row 0 is inf; it must be finite in FP32", id="beyond FP32"),
        pytest.param("fp16", "[65520, 1]", "tensor 'fp16' row 0 is inf; it must be finite in FP16", id="beyond FP16"),
        pytest.param("fp64", "[NaN, 1]", "JSON is malformed", id="NaN is no JSON"),
        pytest.param("fp64", "[-Infinity, 1]", "JSON is malformed", id="Infinity is no JSON"),
        pytest.param("fp64", '["NaN", 1]', "tensor 'fp64': Expected `float | null`, got `str`", id="text for a float"),
        pytest.param("fp64", "[true, 1]", "tensor 'fp64': Expected `float | null`, got `bool`", id="boolean for a float"),
        pytest.param(
            "fp64", "[null, 1]", "tensor 'fp64' row 0 is null or NaN, but this input must be given", id="null for a float"
        ),
        pytest.param("int32", "[1.0, 2]", "tensor 'int32': Expected `int`, got `float`", id="a whole float for an integer"),
        pytest.param("int32", "[1, 1.5]", "tensor 'int32': Expected `int`, got `float`", id="a float for an integer"),
        pytest.param("int32", "[1e2, 1]", "tensor 'int32': Expected `int`, got `float`", id="an exponent for an integer"),
        pytest.param("int32", "[2147483648, 1]", "tensor 'int32': 2147483648 lies outside INT32", id="beyond INT32"),
        pytest.param("int8", "[-129, 1]", "tensor 'int8': -129 lies outside INT8", id="below INT8"),
        pytest.param("int64", "[9223372036854775808, 1]", "9223372036854775808 lies outside INT64", id="beyond INT64"),
        pytest.param("uint64", "[18446744073709551616, 0]", "18446744073709551616 lies outside UINT64", id="beyond UINT64"),
        pytest.param("uint64", "[-1, 0]", "-1 lies outside UINT64", id="negative for an unsigned"),
        pytest.param("int64", f"[{'9' * 5000}, 1]", "out of range", id="5,000 digits"),
        pytest.param("int64", "[null, 1]", "tensor 'int64': Expected `int`, got `null`", id="null for an integer"),
        pytest.param("int64", "[true, 1]", "tensor 'int64': Expected `int`, got `bool`", id="boolean for an integer"),
        pytest.param("int64", "[01, 1]", "JSON is malformed", id="leading zero"),
        pytest.param("bool", "[1, 0]", "tensor 'bool': Expected `bool`, got `int`", id="integer for a boolean"),
        pytest.param("bool", "[null, true]", "tensor 'bool': Expected `bool`, got `null`", id="null for a boolean"),
        pytest.param("bytes", "[1, 2]", "tensor 'bytes': Expected `str | null`, got `int`", id="number for text"),
        pytest.param("bytes", '[null, "a"]', "tensor 'bytes' row 0 is null, but this input must be given", id="null for text"),
        pytest.param("bytes", r'["\ud800", "a"]', "JSON is malformed", id="half a surrogate pair"),
        pytest.param("fp32", "[1, 2, 3]", "data holds 3 values, but shape [1, 2] needs 2", id="too many values"),
        pytest.param("fp32", "[]", "data holds 0 values, but shape [1, 2] needs 2", id="no values"),
        pytest.param("fp32", "[[1], [2]]", "data holds 2 lists, but shape [1, 2] needs 1", id="nested otherwise"),
        pytest.param("fp32", "[[[1, 2]]]", "nested data does not agree with shape [1, 2]", id="nested too deep"),
        pytest.param("fp32", "[1, [2]]", "tensor 'fp32'", id="ragged"),
        pytest.param("fp32", "1", "data must be a list, not int", id="a bare value"),
        pytest.param("fp32", '"AAAA"', "data must be a list, not str", id="base64"),
        pytest.param("fp32", "null", "tensor 'fp32' has no data", id="null data"),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_words(echo: int, name: str, sent: str, said: str) -> None:
    response = infer(echo, name, sent)
    assert response.status == 400
    assert said in response.error


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        pytest.param("[2, 1]", "'fp32' has 2 rows", id="other rows"),
        pytest.param("[2]", "'fp32' has 2 rows", id="flat"),
        pytest.param("[1, 2, 1]", "has shape [1, 2, 1], but this model takes [-1, 2]", id="one axis more"),
        pytest.param("[1, 3]", "data holds 2 values, but shape [1, 3] needs 3", id="more than the data"),
        pytest.param("[0, 2]", "data holds 2 values, but shape [0, 2] needs 0", id="no rows"),
        pytest.param("[-1, 2]", "must have 1 to 32 axes, none of them below 0", id="negative"),
        pytest.param("[]", "must have 1 to 32 axes, none of them below 0", id="no axes"),
        pytest.param(f"[{'1,' * 32}1]", "must have 1 to 32 axes", id="33 axes"),
        pytest.param("[4294967296, 4294967296]", "is beyond what a request can hold", id="2^64 elements"),
        pytest.param("[9223372036854775807, 9223372036854775807]", "is beyond what a request can hold", id="largest"),
        pytest.param("[1.0, 2]", "shape", id="floats"),
        pytest.param('["1", 2]', "shape", id="text"),
        pytest.param("2", "shape", id="no list"),
        pytest.param("null", "shape", id="null"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_in_words(echo: int, shape: str, said: str) -> None:
    response = infer(echo, "fp32", "[1, 2]", shape)
    assert response.status == 400
    assert said in response.error


def bytes_of(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def infer_binary(
    port: int, name: str, blob: bytes, *, size: Any = None, header_length: str | None = None, datatype: str | None = None
) -> Response:
    """Send one input in binary, all others in JSON, and ask for it back in binary."""
    inputs: list[dict[str, Any]] = [
        {"name": one, "datatype": one.upper(), "shape": [1, 2], "data": json.loads(f"[{usual}]")}
        for one, usual in USUAL.items()
    ]
    for tensor in inputs:
        if tensor["name"] == name:
            del tensor["data"]
            tensor["datatype"] = datatype or tensor["datatype"]
            tensor["parameters"] = {"binary_data_size": len(blob) if size is None else size}
    wanted = [{"name": f"same {name}", "parameters": {"binary_data": True}}]
    header = json.dumps({"id": "b", "inputs": inputs, "outputs": wanted}).encode()
    sent = {"Content-Type": "application/octet-stream"}
    if header_length != "":
        sent["Inference-Header-Content-Length"] = str(len(header)) if header_length is None else header_length
    return ask(port, "POST", "/v2/models/echo/infer", header + blob, sent)


@pytest.mark.parametrize(
    ("name", "blob"),
    [
        pytest.param("bool", b"\1\0", id="BOOL"),
        pytest.param("int8", b"\x80\x7f", id="INT8"),
        pytest.param("uint16", struct.pack("<2H", 0, 65535), id="UINT16"),
        pytest.param("int64", struct.pack("<2q", -(2**63), 2**63 - 1), id="INT64"),
        pytest.param("uint64", struct.pack("<2Q", 2**64 - 1, 0), id="UINT64"),
        pytest.param("fp16", np.array([-0.0, 65504.0], "<f2").tobytes(), id="FP16"),
        pytest.param("fp16", b"\x01\x00\x01\x80", id="FP16 denormals"),
        pytest.param("fp32", struct.pack("<2f", -0.0, 1e-45), id="FP32"),
        pytest.param("fp64", struct.pack("<2d", 5e-324, -1.7976931348623157e308), id="FP64"),
        pytest.param("bytes", bytes_of(b"", "ü☃".encode()), id="BYTES"),
        pytest.param("bytes", bytes_of(b"\0" * 3, b"x" * 70_000), id="long BYTES"),
    ],
)
def test_binary_data_comes_back_to_the_last_bit(echo: int, name: str, blob: bytes) -> None:
    response = infer_binary(echo, name, blob)
    assert response.status == 200, response.body
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    assert response.body[length:] == blob
    assert json.loads(response.body[:length]) == {
        "model_name": "echo",
        "model_version": "1",
        "id": "b",
        "outputs": [
            {"name": f"same {name}", "datatype": name.upper(), "shape": [1, 2], "parameters": {"binary_data_size": len(blob)}}
        ],
    }


FLOATS = struct.pack("<2f", 1, 2)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        pytest.param(
            {"name": "fp32", "blob": FLOATS[:-1]}, "7 bytes of data, but FP32 of shape [1, 2] needs 8", id="too short"
        ),
        pytest.param(
            {"name": "fp32", "blob": FLOATS + b"0"}, "9 bytes of data, but FP32 of shape [1, 2] needs 8", id="too long"
        ),
        pytest.param({"name": "fp32", "blob": FLOATS, "size": 9}, "binary_data_size 9, but 8 bytes follow", id="promises more"),
        pytest.param(
            {"name": "fp32", "blob": FLOATS + b"0", "size": 8}, "1 bytes after the last binary tensor", id="left over"
        ),
        pytest.param({"name": "fp32", "blob": FLOATS, "size": -8}, "-8 is not a number of bytes", id="negative size"),
        pytest.param({"name": "fp32", "blob": FLOATS, "size": "8"}, "'8' is not a number of bytes", id="size as text"),
        pytest.param({"name": "fp32", "blob": FLOATS, "size": True}, "True is not a number of bytes", id="size as boolean"),
        pytest.param({"name": "fp32", "blob": FLOATS, "size": 2**63}, "bytes follow the JSON header", id="size of 2^63"),
        pytest.param(
            {"name": "fp32", "blob": FLOATS, "header_length": "99999"}, "is not a length within the body", id="header too long"
        ),
        pytest.param(
            {"name": "fp32", "blob": FLOATS, "header_length": "-1"}, "is not a length within the body", id="negative header"
        ),
        pytest.param(
            {"name": "fp32", "blob": FLOATS, "header_length": "1e2"}, "is not a length within the body", id="header as float"
        ),
        pytest.param({"name": "fp32", "blob": FLOATS, "header_length": "10"}, "request body", id="header too short"),
        pytest.param({"name": "fp32", "blob": FLOATS, "header_length": ""}, "request body", id="no header"),
        pytest.param(
            {"name": "fp32", "blob": FLOATS, "datatype": "FP64"},
            "8 bytes of data, but FP64 of shape [1, 2] needs 16",
            id="other type",
        ),
        pytest.param(
            {"name": "fp32", "blob": FLOATS, "datatype": "COMPLEX64"},
            "datatype 'COMPLEX64' is not supported",
            id="no such type",
        ),
        pytest.param({"name": "bool", "blob": b"\1\2"}, "a BOOL byte must be 0 or 1", id="BOOL of 2"),
        pytest.param(
            {"name": "bytes", "blob": bytes_of(b"a")}, "cannot hold the 2 strings of shape [1, 2]", id="one text too few"
        ),
        pytest.param({"name": "bytes", "blob": bytes_of(b"a", b"b", b"c")}, "left over after its 2 strings", id="one too many"),
        pytest.param({"name": "bytes", "blob": b"\xff\xff\xff\xff" + b"a" * 8}, "claims 4294967295 bytes", id="lying length"),
        pytest.param({"name": "bytes", "blob": bytes_of(b"\xff\xfe", b"")}, "value 0 is not UTF-8", id="no UTF-8"),
        pytest.param({"name": "fp32", "blob": struct.pack("<2f", math.nan, 1)}, "row 0 is null or NaN", id="NaN"),
        pytest.param({"name": "fp16", "blob": np.array([1, math.inf], "<f2").tobytes()}, "row 0 is inf", id="infinity"),
    ],
)
def test_binary_data_that_lies_is_refused_in_words(echo: int, case: dict[str, Any], said: str) -> None:
    response = infer_binary(echo, **case)
    assert response.status == 400
    assert said in response.error


@pytest.fixture(scope="module")
def brain(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> int:
    """The port of a model of bfloat16."""
    port: int = launch_once(small_packages.bfloat16(tmp_path_factory.mktemp("brain") / "package"), grpc_port=0).http_port
    return port


def infer_bfloat16(port: int, tensor: dict[str, Any], blob: bytes, **fields: Any) -> Response:
    header = json.dumps({"inputs": [{"name": "x", "datatype": "BF16", "shape": [1, 2], **tensor}], **fields}).encode()
    return ask(port, "POST", "/v2/models/brain/infer", header + blob, {"Inference-Header-Content-Length": str(len(header))})


def test_bfloat16_is_answered_in_binary_whatever_is_asked(brain: int) -> None:
    blob = struct.pack("<2H", 0x3F81, 0xC000)  # 1.0078125 and -2
    response = infer_bfloat16(brain, {"parameters": {"binary_data_size": 4}}, blob, outputs=[{"name": "double"}])
    assert response.status == 200, response.body
    length = int(response.headers["inference-header-content-length"])
    [output] = json.loads(response.body[:length])["outputs"]
    assert output == {"name": "double", "datatype": "BF16", "shape": [1, 2], "parameters": {"binary_data_size": 4}}
    assert response.body[length:] == struct.pack("<2H", 0x4001, 0xC080)


@pytest.mark.parametrize(
    ("tensor", "blob", "said"),
    [
        pytest.param({"data": [1, 2]}, b"", "BF16 has no JSON form", id="JSON"),
        pytest.param({"parameters": {"binary_data_size": 8}}, FLOATS, "needs 4", id="32 bits"),
        pytest.param({"parameters": {"binary_data_size": 4}}, struct.pack("<2H", 0x7F80, 0), "row 0 is inf", id="infinity"),
        pytest.param({"parameters": {"binary_data_size": 4}}, struct.pack("<2H", 0x7FC0, 0), "row 0 is null or NaN", id="NaN"),
        pytest.param(
            {"datatype": "FP32", "parameters": {"binary_data_size": 8}}, FLOATS, "is FP32, but this model takes BF16", id="FP32"
        ),
    ],
)
def test_bfloat16_that_cannot_be_is_refused_in_words(brain: int, tensor: dict[str, Any], blob: bytes, said: str) -> None:
    response = infer_bfloat16(brain, tensor, blob)
    assert response.status == 400
    assert said in response.error


def test_version_1_has_no_form_for_bfloat16(brain: int) -> None:
    response = ask(brain, "POST", "/v1/models/brain:predict", b'{"instances": [[1.00390625, 4]]}', JSON)
    assert response.status == 400
    assert "BF16 has no JSON form" in response.error
