"""gRPC messages to requests and back, and the generated descriptors."""

import re
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tidegate.serving.grpc_v2 import codec, descriptors, generate
from tidegate.serving.grpc_v2.messages import message_class
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer, InferRequest
from tidegate.serving.protocol.tensors import array_of

Request = message_class("inference.ModelInferRequest")
Response = message_class("inference.ModelInferResponse")
Tensor = message_class("inference.ModelInferRequest.InferInputTensor")
Contents = message_class("inference.InferTensorContents")


def typed(datatype: str, shape: list[int], **contents: Any) -> Any:
    return Request(inputs=[Tensor(name="x", datatype=datatype, shape=shape, contents=Contents(**contents))])


def decoded(message: Any) -> InferRequest:
    return codec.decode(message.SerializeToString())[2]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(typed("FP32", [2], fp32_contents=[1.5, 2]), [1.5, 2.0], id="FP32"),
        pytest.param(typed("FP64", [1, 1], fp64_contents=[1.5]), [[1.5]], id="FP64"),
        pytest.param(typed("INT8", [1], int_contents=[-8]), [-8], id="INT8"),
        pytest.param(typed("INT64", [1], int64_contents=[2**40]), [2**40], id="INT64"),
        pytest.param(typed("UINT8", [1], uint_contents=[255]), [255], id="UINT8"),
        pytest.param(typed("BOOL", [2], bool_contents=[True, False]), [True, False], id="BOOL"),
        pytest.param(typed("BYTES", [2], bytes_contents=[b"a", "ü".encode()]), ["a", "ü"], id="BYTES"),
    ],
)
def test_typed_contents(message: Any, expected: list[Any]) -> None:
    (tensor,) = decoded(message).tensors
    assert array_of(tensor).tolist() == expected


def raw(shape: list[int], **tensors: tuple[str, bytes]) -> Any:
    return Request(
        inputs=[Tensor(name=name, datatype=datatype, shape=shape) for name, (datatype, _) in tensors.items()],
        raw_input_contents=[data for _, data in tensors.values()],
    )


def test_raw_contents() -> None:
    message = raw([2], x=("FP32", struct.pack("<2f", 1, 2)), y=("BYTES", b"\2\0\0\0ab\0\0\0\0"))
    message.model_name, message.model_version, message.id = "tiny", "3", "f1"
    message.outputs.add(name="label")
    name, version, request = codec.decode(message.SerializeToString())
    assert (name, version, request.id, request.outputs) == ("tiny", "3", "f1", ("label",))
    assert [array_of(tensor).tolist() for tensor in request.tensors] == [[1, 2], ["ab", ""]]


@pytest.mark.parametrize(
    ("parameter", "timeout"),
    [
        pytest.param({"int64_param": 200_000}, 200_000_000, id="microseconds, as Triton has it"),
        pytest.param({"string_param": "200"}, None, id="a text"),
        pytest.param({"int64_param": -1}, None, id="negative"),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_a_timeout_is_a_parameter(parameter: dict[str, Any], timeout: int | None) -> None:
    message = raw([1], x=("FP32", struct.pack("<f", 1)))
    message.parameters["timeout"].CopyFrom(message_class("inference.InferParameter")(**parameter))
    for _ in range(2):  # read by protobuf, and by the outline that was learned of it
        if timeout is None:
            with pytest.raises(RequestError, match=r"parameter timeout: .* is not a number of microseconds"):
                codec.decode(message.SerializeToString())
        else:
            assert codec.decode(message.SerializeToString())[2].timeout == timeout


@pytest.mark.parametrize(
    ("datatype", "data", "value"),
    [
        pytest.param("FP32", struct.pack("<f", 0.5), 0.5, id="FP32"),
        pytest.param("FP64", struct.pack("<d", 0.1), 0.1, id="FP64"),
        pytest.param("FP16", struct.pack("<e", 0.5), 0.5, id="FP16"),
        pytest.param("INT8", b"\xff", -1, id="INT8"),
        pytest.param("UINT64", b"\xff" * 8, 2**64 - 1, id="UINT64"),
        pytest.param("BYTES", b"\3\0\0\0\xc3\xbcb", "üb", id="BYTES"),
    ],
)
@pytest.mark.parametrize("shape", [[1], [1, 1]])
def test_the_value_of_one_row_is_no_array(datatype: str, data: bytes, value: Any, shape: list[int]) -> None:
    for _ in range(2):  # the second time by its outline
        assert decoded(raw(shape, x=(datatype, data))).tensors[0].data == [value]


@pytest.mark.parametrize(
    ("datatype", "data", "text"),
    [
        pytest.param("FP32", b"abc", "3 bytes of data, but FP32 of shape [1] needs 4", id="too short"),
        pytest.param("BYTES", b"\3\0\0\0ab", "string 0 claims 3 bytes", id="half a string"),
        pytest.param("BYTES", b"\1\0\0\0\xff", "not UTF-8", id="not UTF-8"),
        pytest.param("BYTES", b"ab", "cannot hold", id="half a length"),
        pytest.param("BOOL", b"\2", "must be 0 or 1", id="a BOOL of 2"),
        pytest.param("nope", b"ab", "datatype 'nope' is not supported", id="unknown datatype"),
    ],
)
def test_raw_contents_that_are_no_value_are_left_to_their_reader(datatype: str, data: bytes, text: str) -> None:
    (tensor,) = decoded(raw([1], x=(datatype, data))).tensors
    with pytest.raises(RequestError, match=re.escape(text)):
        array_of(tensor)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        pytest.param(typed("FP16", [1]), "FP16 has no typed contents", id="FP16"),
        pytest.param(typed("BYTES", [1], bytes_contents=[b"\xff"]), "value 0 is not UTF-8", id="not UTF-8"),
        pytest.param(
            Request(inputs=[Tensor(name="x", datatype="FP32", shape=[1])], raw_input_contents=[b"", b""]),
            "raw_input_contents holds 2 tensors, but there are 1 inputs",
            id="more raw tensors than inputs",
        ),
        pytest.param(
            Request(
                inputs=[Tensor(name="x", datatype="FP32", shape=[1], contents=Contents(fp32_contents=[1]))],
                raw_input_contents=[b"\0\0\0\0"],
            ),
            "contents besides raw_input_contents",
            id="both kinds of contents",
        ),
        pytest.param(Request(id="i" * 300), "at most 256", id="id too long"),
    ],
)
def test_a_malformed_message_is_a_400(message: Any, text: str) -> None:
    with pytest.raises(RequestError) as error:
        decoded(message)
    assert error.value.status == 400
    assert text in str(error.value)


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05abc", b"\x0a\x01\xff", b"\x2a\x80"])
def test_what_is_no_protobuf_is_a_400(message: bytes) -> None:
    with pytest.raises(RequestError, match="message is no inference") as error:
        codec.decode(message)
    assert error.value.status == 400


def test_a_missing_id_is_issued() -> None:
    assert decoded(Request()).id != decoded(Request()).id


def test_an_answer_has_raw_contents() -> None:
    label = np.array(["late"], object)
    answer = InferAnswer("f1", {"probability": np.array([[0.5]], np.float32), "label": label, "big": np.zeros(300, np.float64)})
    datatypes = {"probability": "BF16", "label": "BYTES", "big": "FP64"}
    message = Response.FromString(codec.encode(answer, "tiny", "3", datatypes))
    assert (message.model_name, message.model_version, message.id) == ("tiny", "3", "f1")
    assert [(output.name, output.datatype, list(output.shape)) for output in message.outputs] == [
        ("probability", "BF16", [1, 1]),
        ("label", "BYTES", [1]),
        ("big", "FP64", [300]),
    ]
    assert list(message.raw_output_contents) == [b"\0\x3f", b"\4\0\0\0late", bytes(2400)]


def test_the_descriptors_are_those_of_the_proto_files() -> None:
    generated: dict[str, Any] = {}
    exec(generate.generated_module(), generated)  # noqa: S102
    assert generated["FILE_DESCRIPTOR_SET"] == descriptors.FILE_DESCRIPTOR_SET


def test_other_stubs_of_the_protocol_may_share_the_process() -> None:
    script = (
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "from tidegate.serving.grpc_v2 import messages\n"
        "file = descriptor_pb2.FileDescriptorProto(name='other.proto', package='inference')\n"
        "file.message_type.add(name='ModelInferRequest')\n"
        "descriptor_pool.Default().Add(file)\n"
        "assert messages.message_class('inference.ModelInferRequest')().raw_input_contents == []\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
