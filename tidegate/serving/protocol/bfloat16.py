"""BF16 tensors on the wire: bfloat16, the upper 16 bits of a float of 32, which is what such a tensor is in memory."""

import numpy as np
from numpy.typing import NDArray

BYTES_A_VALUE = 2

_LOWER_BITS = np.uint32(16)
_ALMOST_HALF = np.uint32(0x7FFF)  # of the last bit that is kept
_QUIET_NAN = np.uint16(0x7FC0)
_SIGN = np.uint16(0x8000)


def widened(raw: bytes | memoryview) -> NDArray[np.float32]:
    """Return the little-endian bfloat16 values in `raw` as floats of 32 bits, shape [values], each exactly itself."""
    bits = np.frombuffer(raw, "<u2").astype(np.uint32)
    np.left_shift(bits, _LOWER_BITS, out=bits)
    return bits.view(np.float32)


def narrowed(array: NDArray[np.float32]) -> bytes:
    """Return floats of 32 bits as little-endian bfloat16: rounded to nearest, ties to even; beyond its range infinite.

    A NaN stays one of its sign, whatever its other bits. The method is IEEE 754's roundTiesToEven on the upper 16 bits.
    """
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    last_kept = (bits >> _LOWER_BITS) & np.uint32(1)
    rounded = ((bits + _ALMOST_HALF + last_kept) >> _LOWER_BITS).astype("<u2")
    nan = np.isnan(array)
    if nan.any():  # adding to a NaN's bits could carry into its sign, and dropping the lower ones could make it infinite
        signs = (bits[nan] >> _LOWER_BITS).astype(np.uint16) & _SIGN
        rounded[nan] = signs | _QUIET_NAN
    return rounded.tobytes()
