"""Source models of TensorFlow: Keras models and SavedModels, run by TensorFlow itself, converted by tf2onnx."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tidegate.errors import PackageError, in_one_line
from tidegate.extras import needing
from tidegate.packaging.format.datatypes import DATATYPES
from tidegate.packaging.format.manifest import Datatype, SourceFacts, Task, TensorSpec
from tidegate.packaging.sources.graphs import check_size, checked, with_boundary
from tidegate.packaging.sources.source import Array
from tidegate.packaging.sources.tensors import (
    DeclaredInput,
    accept_declared,
    answers,
    as_read,
    bind,
    columns_of,
    required_names,
)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # it greets on stderr otherwise
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # which would add up in another order, and say so on stderr
with needing("tensorflow"):
    import keras
    import tensorflow as tf

_OPSET = 18
_UNNAMED = "keras_tensor"  # how Keras calls what nobody named
_SIGNATURE = "serving_default"
_NUMBERS: dict[str, Datatype] = {dtype.name: datatype for dtype, datatype in DATATYPES.items() if datatype != "BYTES"}
_DATATYPES: dict[str, Datatype] = _NUMBERS | {"string": "BYTES"}


def read_keras(path: Path) -> "KerasModel":
    """Read a `.keras` or `.h5` file; raises PackageError if it is none, or holds Python code, which is never run."""
    try:
        with _quiet():
            return KerasModel(keras.models.load_model(path, compile=False), str(path))
    except PackageError:
        raise
    except Exception as error:  # Keras raises whatever its layers raise
        raise PackageError(
            f"source model {path}: Keras cannot load it: {in_one_line(error)}; a model with layers of its own can be exported "
            "to a SavedModel where they are defined: model.export(folder)"
        ) from error


def read_saved_model(path: Path) -> "SavedModel":
    """Read a SavedModel's directory; raises PackageError if it is none, or has no signature to be served."""
    try:
        with _quiet():
            loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises whatever its parts raise
        raise PackageError(f"source model {path}: TensorFlow cannot load it: {in_one_line(error)}") from error
    return SavedModel(loaded, str(path))


class _TensorFlowModel:
    """A function of tensors by position, with the inputs it declares and the outputs it gives by name."""

    task: Task = "tensors"
    classes: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        facts: SourceFacts,
        declared: Sequence[DeclaredInput],
        call: Callable[[Sequence[Any]], dict[str, Any]],
        weights: Sequence[Any],
    ) -> None:
        self._name, self._declared, self._call = name, declared, call
        self.facts = facts
        self.columns = required_names(declared)
        check_size(name, sum(int(np.prod(weight.shape)) * tf.as_dtype(weight.dtype).size for weight in weights))

    def accept(self, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Return the inputs as the model declares them; raises PackageError as `accept_declared` does."""
        return accept_declared(self._name, self._declared, inputs)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the model's outputs by name; raises PackageError if it refuses the rows."""
        bound = bind(self._name, self._declared, list(inputs))

        def run(rows: dict[str, Array]) -> dict[str, Array]:
            tensors = [tf.constant(as_read(rows[name], one)) for name, one in bound.items()]
            return {name: _array(tensor) for name, tensor in self._call(tensors).items()}

        return answers(self._name, run, inputs)

    def to_onnx(self, inputs: Sequence[TensorSpec], example: Mapping[str, Array]) -> onnx.ModelProto:
        """Return the ONNX graph; raises PackageError if tf2onnx has no converter for a part of the model."""
        with needing("tensorflow"):
            import tf2onnx
        bound = bind(self._name, self._declared, [spec.name for spec in inputs])
        outputs = list(self._call([tf.constant(as_read(example[name], one)) for name, one in bound.items()]))
        places = [_place(position, spec, bound[spec.name]) for position, spec in enumerate(inputs)]
        function = tf.function(lambda *tensors: tuple(self._call(tensors).values()), input_signature=places)
        try:
            with _quiet():
                graph, _ = tf2onnx.convert.from_function(function, input_signature=places, opset=_OPSET)
        except Exception as error:  # the converter raises whatever its parts raise
            raise PackageError(f"model {self._name}: tf2onnx cannot convert it: {in_one_line(error)}") from error
        given = {place.name: spec.name for place, spec in zip(places, inputs, strict=True)}
        answered = [value.name for value in graph.graph.output]
        _rewrite_erfc(graph.graph)
        named = with_boundary(graph, given, dict(zip(answered, outputs, strict=True)), columns_of(bound))
        return checked(named, self._name, "tf2onnx")


class KerasModel(_TensorFlowModel):
    """A Keras model whose inputs are known: functional, sequential, or built."""

    def __init__(self, model: Any, name: str) -> None:
        """Read what the model declares; raises PackageError if it does not say what it reads."""
        if keras.backend.backend() != "tensorflow":
            raise PackageError(
                f"model {name}: Keras runs on {keras.backend.backend()} here; set KERAS_BACKEND=tensorflow and load it anew"
            )
        inputs = getattr(model, "inputs", None)
        if not inputs:
            raise PackageError(
                f"model {name}: it does not say what it reads; call it once on a batch before saving it, "
                "or export it to a SavedModel: model.export(folder)"
            )
        facts = SourceFacts(framework="Keras", version=keras.__version__, kind=type(model).__name__)
        declared = [_declared_input(one.name.partition(":")[0], one.dtype, one.shape, name) for one in inputs]
        super().__init__(name, facts, declared, _calling(model), model.weights)


class SavedModel(_TensorFlowModel):
    """A SavedModel's signature: `serving_default`, or the only one it has."""

    def __init__(self, loaded: Any, name: str) -> None:
        """Read what the signature declares; raises PackageError if there is none to choose."""
        signatures = dict(getattr(loaded, "signatures", {}))
        if _SIGNATURE not in signatures and len(signatures) != 1:
            found = ", ".join(signatures) or "none"
            raise PackageError(f"model {name}: its signatures are {found}; one called {_SIGNATURE} is needed")
        function = signatures.get(_SIGNATURE) or next(iter(signatures.values()))
        self._loaded = loaded  # the function's weights live as long as this does
        _, places = function.structured_input_signature
        facts = SourceFacts(framework="TensorFlow", version=tf.__version__, kind="SavedModel")
        declared = [_declared_input(key, place.dtype.name, place.shape, name) for key, place in sorted(places.items())]
        outputs = sorted(function.structured_outputs)

        def call(tensors: Sequence[Any]) -> dict[str, Any]:
            found = function(**dict(zip(sorted(places), tensors, strict=True)))
            return {output: found[output] for output in outputs}

        super().__init__(name, facts, declared, call, function.variables)


def _calling(model: Any) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """Call a Keras model in the mode for inference; its outputs by the keys of its dict, or by its layers' names."""
    names = [str(name) for name in getattr(model, "output_names", ())]

    def call(tensors: Sequence[Any]) -> dict[str, Any]:
        by_name = {one.name: tensor for one, tensor in zip(model.inputs, tensors, strict=True)}
        answer = model(keras.tree.map_structure(lambda one: by_name[one.name], _structure(model)), training=False)
        if isinstance(answer, dict):
            return {str(key): tensor for key, tensor in answer.items()}
        flat = keras.tree.flatten(answer)
        if len(names) == len(flat) == len(set(names)):
            return dict(zip(names, flat, strict=True))
        return {"output": flat[0]} if len(flat) == 1 else {f"output_{i}": tensor for i, tensor in enumerate(flat)}

    return call


def _structure(model: Any) -> Any:
    """How a model takes its inputs: a tensor, a list, a dict of them."""
    given = getattr(model, "_inputs_struct", None)
    return given if given is not None else model.inputs[0] if len(model.inputs) == 1 else model.inputs


def _declared_input(key: str, dtype: str, shape: Sequence[int | None], model: str) -> DeclaredInput:
    if dtype not in _DATATYPES:
        raise PackageError(f"model {model}: input {key!r} is {dtype}, which no signature can say")
    return DeclaredInput(name=key, datatype=_DATATYPES[dtype], shape=tuple(-1 if size is None else size for size in shape))


def _rewrite_erfc(graph: onnx.GraphProto) -> None:
    """Write erfc(x), which Keras' exact GELU is made of and tf2onnx leaves as it is, as 1 - erf(x)."""
    kept = []
    for node in graph.node:
        if node.op_type != "Erfc":
            kept.append(node)
            continue
        (given,), (wanted,) = node.input, node.output
        one = helper.make_node("Constant", [], [f"{wanted}: one"], value_float=1.0)
        like = helper.make_node("CastLike", [f"{wanted}: one", given], [f"{wanted}: like"])
        erf = helper.make_node("Erf", [given], [f"{wanted}: erf"])
        kept += [one, like, erf, helper.make_node("Sub", [f"{wanted}: like", f"{wanted}: erf"], [wanted])]
    del graph.node[:]
    graph.node.extend(kept)


def _place(position: int, spec: TensorSpec, declared: DeclaredInput) -> Any:
    """A tensor of the traced function; its own name is one that TensorFlow allows, whatever the sample calls it."""
    shape = [None if size == -1 else size for size in declared.shape or spec.shape]
    dtype = next(name for name, datatype in _DATATYPES.items() if datatype == spec.datatype)
    return tf.TensorSpec(shape, dtype, name=f"input_{position}")


def _array(tensor: Any) -> Array:
    array = np.asarray(tensor.numpy())
    return np.vectorize(bytes.decode, otypes=[object])(array) if array.dtype == object else array


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TensorFlow's and tf2onnx's remarks from the user."""
    levels = {name: logging.getLogger(name).level for name in ("tensorflow", "tf2onnx", "absl")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
