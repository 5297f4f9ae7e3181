"""BF16 on the wire: exact on the way in, rounded to nearest even on the way out, with NaN and infinity kept."""

import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.serving.protocol.bfloat16 import narrowed, widened


def test_every_bfloat16_comes_back_as_it_was_sent() -> None:
    every = np.arange(2**16, dtype="<u2")
    floats = widened(every.tobytes())
    assert floats.dtype == np.float32
    again = np.frombuffer(narrowed(floats), "<u2")
    nan = np.isnan(floats)
    np.testing.assert_array_equal(again[~nan], every[~nan])
    assert np.isnan(widened(again[nan].tobytes())).all()
    np.testing.assert_array_equal(again[nan] >> 15, every[nan] >> 15)  # the sign of a NaN


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        pytest.param(1.0, 0x3F80, id="exact"),
        pytest.param(1.00390625, 0x3F80, id="tie goes down to even"),
        pytest.param(1.01171875, 0x3F82, id="tie goes up to even"),
        pytest.param(1.0039063692092896, 0x3F81, id="just above a tie"),
        pytest.param(-0.0, 0x8000, id="negative zero"),
        pytest.param(3.3961775292304957e38, 0x7F80, id="rounds beyond the range"),
        pytest.param(3.3895313892515355e38, 0x7F7F, id="largest"),
        pytest.param(float("-inf"), 0xFF80, id="negative infinity"),
        pytest.param(float("nan"), 0x7FC0, id="NaN"),
        pytest.param(1e-40, 0x0001, id="denormal"),
    ],
)
def test_a_float_is_rounded_to_the_nearest(value: float, bits: int) -> None:
    assert narrowed(np.array([value], np.float32)) == struct.pack("<H", bits)


@pytest.mark.parametrize("bits", [0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], ids=hex)
def test_a_nan_of_any_bits_stays_a_nan_of_its_sign(bits: int) -> None:
    sent = narrowed(np.array([bits], np.uint32).view(np.float32))
    assert sent == struct.pack("<H", (bits >> 16 & 0x8000) | 0x7FC0)


def test_shape_and_strides_do_not_matter() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(widened(narrowed(array.T)), array.T.ravel())
    assert narrowed(np.empty((0, 3), np.float32)) == b""


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), max_size=50))
def test_it_rounds_as_an_independent_implementation_does(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert narrowed(array) == array.astype(ml_dtypes.bfloat16).tobytes()
