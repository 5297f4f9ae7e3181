"""A message that is read by its outline says what protobuf says of it; whatever else is left to protobuf."""

from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.serving.grpc_v2 import codec
from tidegate.serving.grpc_v2.messages import message_class
from tidegate.serving.grpc_v2.outline import Found, Outlines

Request = message_class("inference.ModelInferRequest")
Parameter = message_class("inference.InferParameter")

texts = st.text(max_size=5)
contents = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=1), st.binary(max_size=150))
tensors = st.tuples(texts, st.sampled_from(["FP32", "BYTES", "INT8"]), st.sampled_from([[1], [1, 1], [2], []]), contents)
rows_of_numbers = st.tuples(texts, st.just("FP32"), st.just([1]), st.binary(min_size=4, max_size=4))
requests = st.builds(
    lambda name, version, given, parameter, tensors, outputs: Request(
        model_name=name,
        model_version=version,
        id=given,
        parameters={"timeout": Parameter(int64_param=parameter)} if parameter else {},
        inputs=[{"name": tensor[0], "datatype": tensor[1], "shape": tensor[2]} for tensor in tensors],
        outputs=[{"name": output} for output in outputs],
        raw_input_contents=[tensor[3] for tensor in tensors],
    ),
    texts,
    texts,
    texts,
    st.integers(0, 300),
    st.one_of(st.lists(tensors, min_size=1, max_size=3), st.lists(rows_of_numbers, min_size=1, max_size=3)),
    st.lists(texts, max_size=2),
)


def by_protobuf(message: bytes) -> Found:
    sent = Request.FromString(message)
    outputs = tuple(output.name for output in sent.outputs) or None
    timeout = sent.parameters["timeout"].int64_param * 1000 if "timeout" in sent.parameters else 0
    tensors = codec._from_raw(sent.inputs, sent.raw_input_contents)
    return sent.model_name, sent.model_version, sent.id, outputs, timeout, tensors


def learned(*messages: bytes) -> Outlines:
    outlines = Outlines()
    for message in messages:
        *_, outputs, timeout, tensors = by_protobuf(message)
        outlines.learn(message, tensors, outputs, timeout)
    return outlines


@settings(max_examples=50, deadline=None)
@given(requests, st.lists(contents, min_size=3, max_size=3), texts)
def test_a_known_outline_says_what_protobuf_says(request: Any, sent: list[bytes], given: str) -> None:
    outlines = learned(request.SerializeToString())
    other = Request()
    other.CopyFrom(request)
    other.id = given
    del other.raw_input_contents[:]
    other.raw_input_contents.extend(sent[: len(request.inputs)])
    message = other.SerializeToString()
    assert repr(outlines.read(message)) == repr(by_protobuf(message))  # NaN is not equal to itself


@settings(max_examples=50, deadline=None)
@given(st.lists(requests, min_size=1, max_size=3), st.integers(0, 2), st.data())
def test_no_mutation_is_read_otherwise_than_by_protobuf(messages: list[Any], chosen: int, data: st.DataObject) -> None:
    sent = [message.SerializeToString() for message in messages]
    outlines = learned(*sent)
    message = bytearray(sent[chosen % len(sent)])
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, len(message) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "insert", "append"]))
        if how == "change":
            message[position] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del message[position + 1 :]
        elif how == "insert":
            message[position:position] = data.draw(st.binary(max_size=3))
        else:
            message += data.draw(st.sampled_from(sent))
    found = outlines.read(bytes(message))
    if found is not None:
        try:
            expected = by_protobuf(bytes(message))
        except DecodeError:
            raise AssertionError("protobuf would refuse this message") from None
        assert repr(found) == repr(expected)


def test_an_outline_that_begins_a_longer_one_is_not_taken_for_it() -> None:
    short = Request(inputs=[{"name": "x", "datatype": "FP32", "shape": [1]}], raw_input_contents=[b"abcd"])
    long = Request(
        inputs=[*short.inputs, {"name": "y", "datatype": "FP32", "shape": [1]}], raw_input_contents=[b"abcd", b"efgh"]
    )
    outlines = learned(long.SerializeToString(), short.SerializeToString())
    for request in (short, long, short):
        message = request.SerializeToString()
        assert outlines.read(message) == by_protobuf(message)


def test_only_the_latest_outlines_are_remembered() -> None:
    messages = [Request(inputs=[{"name": f"x{index}"}], raw_input_contents=[b""]).SerializeToString() for index in range(20)]
    outlines = learned(*messages)
    assert [outlines.read(message) is not None for message in messages] == [False] * 12 + [True] * 8
