"""Models that take a value of every datatype, and what may be sent to them."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from tidegate.packaging.format.manifest import Manifest, Signature, TensorSpec

VALUES: dict[str, tuple[Any, Any]] = {  # what a caller may send in one value of the datatype, and what stands for a missing one
    "BOOL": (st.booleans(), np.bool_),
    "INT8": (st.integers(-128, 127), np.int8),
    "INT64": (st.integers(-(2**63), 2**63 - 1), np.int64),
    "UINT64": (st.integers(0, 2**64 - 1), np.uint64),
    "FP16": (st.floats(width=16, allow_infinity=False) | st.integers(-9, 9), np.float16),
    "FP32": (st.floats(width=32, allow_infinity=False) | st.integers(-9, 9), np.float32),
    "FP64": (st.floats(allow_infinity=False), np.float64),
    "BYTES": (st.text(max_size=4).filter(str.isprintable) | st.none(), object),
}
SPECS = tuple(TensorSpec(name=f"{name}{copy}", datatype=name, shape=(-1, 1)) for name in VALUES for copy in "ab")  # type: ignore[arg-type]


def manifest_of(tiny_manifest: Manifest, specs: Sequence[TensorSpec]) -> Manifest:
    signature = Signature(inputs=tuple(specs), outputs=tiny_manifest.signature.outputs)
    return msgspec.structs.replace(tiny_manifest, features=None, signature=signature)
