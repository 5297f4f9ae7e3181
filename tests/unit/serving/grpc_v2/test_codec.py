"""gRPC messages to requests and back, and the generated descriptors."""

import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tidegate.serving.grpc_v2 import codec, descriptors, generate
from tidegate.serving.grpc_v2.messages import message_class
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer

Request = message_class("inference.ModelInferRequest")
Tensor = message_class("inference.ModelInferRequest.InferInputTensor")
Contents = message_class("inference.InferTensorContents")


def typed(datatype: str, shape: list[int], **contents: Any) -> Any:
    return Request(inputs=[Tensor(name="x", datatype=datatype, shape=shape, contents=Contents(**contents))])


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
    assert codec.decode(message).tensors["x"].tolist() == expected


def test_raw_contents() -> None:
    message = Request(
        id="f1",
        inputs=[Tensor(name="x", datatype="FP32", shape=[2]), Tensor(name="y", datatype="BYTES", shape=[1])],
        raw_input_contents=[struct.pack("<2f", 1, 2), b"\2\0\0\0ab"],
        outputs=[{"name": "label"}],
    )
    request = codec.decode(message)
    assert request.id == "f1"
    assert request.outputs == ("label",)
    assert request.tensors["x"].tolist() == [1, 2]
    assert request.tensors["y"].tolist() == ["ab"]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        pytest.param(typed("FP32", [2], fp32_contents=[1]), "holds 1 values, but shape [2] needs 2", id="too few"),
        pytest.param(typed("FP32", [1], fp64_contents=[1]), "fp32_contents holds 0 values", id="contents of another type"),
        pytest.param(typed("FP16", [1]), "FP16 has no typed contents", id="FP16"),
        pytest.param(typed("INT8", [1], int_contents=[200]), "lies outside INT8", id="outside INT8"),
        pytest.param(typed("BYTES", [1], bytes_contents=[b"\xff"]), "value 0 is not UTF-8", id="not UTF-8"),
        pytest.param(typed("nope", [1]), "datatype 'nope' is not supported", id="unknown datatype"),
        pytest.param(typed("FP32", [-1]), "none below 0", id="negative axis"),
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
        pytest.param(Request(inputs=[Tensor(name="x", datatype="FP32")], raw_input_contents=[b""]), "shape []", id="no shape"),
        pytest.param(Request(id="i" * 300), "at most 256", id="id too long"),
    ],
)
def test_a_malformed_message_is_a_400(message: Any, text: str) -> None:
    with pytest.raises(RequestError) as error:
        codec.decode(message)
    assert error.value.status == 400
    assert text in str(error.value)


def test_an_answer_has_raw_contents() -> None:
    label = np.array(["late"], object)
    message = codec.encode(InferAnswer("f1", {"probability": np.array([0.5], np.float32), "label": label}), "tiny", "3")
    assert (message.model_name, message.model_version, message.id) == ("tiny", "3", "f1")
    assert [(output.name, output.datatype, list(output.shape)) for output in message.outputs] == [
        ("probability", "FP32", [1]),
        ("label", "BYTES", [1]),
    ]
    assert list(message.raw_output_contents) == [struct.pack("<f", 0.5), b"\4\0\0\0late"]


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
