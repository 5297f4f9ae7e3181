"""The datatypes of tensors, as the Open Inference Protocol and so the manifest name them, and what NumPy calls each."""

from typing import Any

import numpy as np

from tidegate.packaging.format.manifest import Datatype

NUMPY_TYPES: dict[Datatype, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.float32),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
DATATYPES: dict[np.dtype[Any], Datatype] = {dtype: datatype for datatype, dtype in NUMPY_TYPES.items() if datatype != "BF16"}
"""By dtype; an array of 32 bits is FP32 unless a signature says that it is BF16."""
