"""Scalers as scikit-learn computes them on 32-bit numbers: RobustScaler and MaxAbsScaler step by step in 64 bits.

Their parameters are 64-bit and the array is changed in place, so NumPy computes each step in 64 bits and rounds it to 32. A
number that lies on a tree's split decides by that last bit. skl2onnx rounds the parameters first.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto
from skl2onnx.algebra.onnx_ops import OnnxCast, OnnxDiv, OnnxIdentity, OnnxSub
from skl2onnx.operator_converters.common import concatenate_variables
from sklearn.preprocessing import MaxAbsScaler, RobustScaler


def converters() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Return the converters by the kind of scaler, for inputs that are 32-bit floats."""
    return {RobustScaler: _convert, MaxAbsScaler: _convert}


def _convert(scope: Any, operator: Any, container: Any) -> None:
    scaler, opset = operator.raw_operator, container.target_opset
    joined = len(operator.inputs) > 1
    numbers = concatenate_variables(scope, operator.inputs, container) if joined else operator.inputs[0].full_name
    value: Any = OnnxCast(numbers, to=TensorProto.FLOAT, op_version=opset)
    for step, parameter in ((OnnxSub, getattr(scaler, "center_", None)), (OnnxDiv, scaler.scale_)):
        if parameter is not None:
            wide = OnnxCast(value, to=TensorProto.DOUBLE, op_version=opset)
            value = OnnxCast(step(wide, parameter.astype(np.float64), op_version=opset), to=TensorProto.FLOAT, op_version=opset)
    OnnxIdentity(value, op_version=opset, output_names=[operator.outputs[0].full_name]).add_to(scope, container)
