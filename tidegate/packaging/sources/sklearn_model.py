"""Source models of scikit-learn, and of libraries whose estimators behave as its do; converted by skl2onnx."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import onnx
import pandas as pd
import sklearn
from sklearn.base import is_classifier, is_outlier_detector, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.manifest import (
    PREDICTION,
    PROBABILITIES,
    PROBABILITY,
    Datatype,
    SourceFacts,
    Task,
    TensorSpec,
)
from tidegate.packaging.sources.sklearn_graph import closest_graph
from tidegate.packaging.sources.source import Array

_SHUFFLES = 4


class SklearnModel:
    """A fitted classifier with probabilities, or a regressor, that takes rows of columns: an estimator, or a pipeline."""

    def __init__(self, model: Any, name: str, *, facts: SourceFacts | None = None) -> None:
        """Check what the model is.

        Args:
            model: The fitted model; of a search the best estimator is taken.
            name: For messages.
            facts: What to say the model is, if it is not scikit-learn's.

        Raises:
            PackageError: The model is not fitted, or neither a classifier with probabilities nor a regressor.
        """
        model = getattr(model, "best_estimator_", model)
        self._model, self._name = model, name
        self.facts = facts or SourceFacts(framework="scikit-learn", version=sklearn.__version__, kind=_kind(model))
        self.task, self.classes = _task_and_classes(model, name)
        self.columns = tuple(str(column) for column in getattr(model, "feature_names_in_", ()))

    def accept(self, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Return the inputs with integers as INT64 and floats as FP32; raises PackageError if the model cannot take them."""
        given = [spec.name for spec in inputs]
        for column in self.columns:
            if column not in given:
                raise PackageError(f"model {self._name}: it reads column {column!r}, which is not among {', '.join(given)}")
        tensors = [spec for spec in inputs if spec.shape != (-1, 1)]
        if tensors and (len(inputs) > 1 or len(tensors[0].shape) != 2 or tensors[0].datatype == "BYTES"):
            raise PackageError(
                f"model {self._name}: input {tensors[0].name!r} holds tensors of shape {list(tensors[0].shape[1:])}; "
                "it takes columns of single values, or one column of equally long lists of numbers"
            )
        self._check_count(inputs)
        return tuple(msgspec.structs.replace(spec, datatype=_own_datatype(spec.datatype)) for spec in inputs)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the probability of class 1, the probabilities, or the predictions, float32; raises PackageError if refused."""
        try:
            rows = self._rows(inputs)
            answer = self._model.predict(rows) if self.task == "regression" else self._model.predict_proba(rows)
        except Exception as error:  # a source model raises whatever its steps raise
            raise PackageError(f"model {self._name}: it cannot predict the given rows: {in_one_line(error)}") from error
        scores = np.asarray(answer, dtype=np.float32)
        if self.task == "binary-classification":
            return {PROBABILITY: scores[:, 1]}
        if self.task == "multiclass-classification":
            return {PROBABILITIES: scores}
        return {PREDICTION: scores.reshape(len(scores)) if scores.size == len(scores) else scores}

    def to_onnx(self, inputs: Sequence[TensorSpec], example: Mapping[str, Array]) -> onnx.ModelProto:
        """Return the graph that agrees best with `predict` on the example; raises PackageError if a part has no converter."""
        rows = self._with_shuffled(example)
        return closest_graph(self._model, self._name, self.task, tuple(inputs), rows, self.predict(rows))

    def _with_shuffled(self, example: Mapping[str, Array]) -> dict[str, Array]:
        """Add rows whose values come from different rows each: more ways through the trees, along the same values."""
        rows = len(next(iter(example.values())))
        shuffles = np.random.default_rng(0)
        places = {name: [shuffles.permutation(rows) for _ in range(_SHUFFLES)] for name in example}
        shuffled = {name: np.concatenate([array[place] for place in places[name]]) for name, array in example.items()}
        try:
            self.predict(shuffled)
        except PackageError:  # a step refuses what never occurs together
            return dict(example)
        return {name: np.concatenate([array, shuffled[name]]) for name, array in example.items()}

    def _check_count(self, inputs: Sequence[TensorSpec]) -> None:
        wanted = getattr(self._model, "n_features_in_", None)
        width = sum(max(1, spec.shape[1]) for spec in inputs)
        if not self.columns and wanted is not None and width != wanted:
            raise PackageError(
                f"model {self._name}: it was fitted on {wanted} columns without names, but the sample has {width} "
                f"({', '.join(spec.name for spec in inputs)}); give exactly its columns, in its order"
            )

    def _rows(self, inputs: Mapping[str, Array]) -> Any:
        """Return rows as the model was fitted: by name in a data frame, or without names by place."""
        if self.columns:
            return pd.DataFrame({column: inputs[column].reshape(-1) for column in self.columns})
        matrices = [array.reshape(len(array), -1) for array in inputs.values()]
        if any(array.dtype == object for array in matrices):
            return pd.DataFrame({place: array.reshape(-1) for place, array in enumerate(matrices)})
        return np.concatenate(matrices, axis=1)


def _own_datatype(datatype: Datatype) -> Datatype:
    if datatype == "BYTES":
        return datatype
    return "FP32" if datatype.startswith("FP") else "INT64"


def _kind(model: Any) -> str:
    steps = getattr(model, "steps", None)
    return f"{type(model).__name__}({_kind(steps[-1][1])})" if steps else type(model).__name__


def _task_and_classes(model: Any, name: str) -> tuple[Task, tuple[str, ...]]:
    _check_fitted(model, name)
    if callable(getattr(model, "predict_proba", None)):
        return _classification(model, name)
    reason = _why_not(model)
    if reason:
        raise PackageError(f"model {name}: {_kind(model)} {reason}")
    return "regression", ()


def _check_fitted(model: Any, name: str) -> None:
    try:
        if hasattr(model, "fit"):
            check_is_fitted(model)
        if callable(getattr(model, "predict_proba", None)):
            _ = model.classes_
    except (NotFittedError, AttributeError):
        raise PackageError(f"model {name}: {_kind(model)} is not fitted; fit it first") from None


def _classification(model: Any, name: str) -> tuple[Task, tuple[str, ...]]:
    if isinstance(model.classes_, list):
        raise PackageError(f"model {name}: it classifies {len(model.classes_)} targets at once; package a model of each")
    classes = np.asarray(model.classes_).tolist()
    if len(classes) < 2:
        raise PackageError(f"model {name}: its classes are {classes}; at least two are needed")
    numbered = classes == list(range(len(classes)))
    names = () if numbered else tuple(str(label) for label in classes)
    return ("binary-classification" if len(classes) == 2 else "multiclass-classification"), names


def _why_not(model: Any) -> str:
    """Return why a model without probabilities cannot be packaged, with the way out; empty for a regressor."""
    try:
        if is_classifier(model):
            return "has no predict_proba; wrap it in CalibratedClassifierCV, or fit a classifier with probabilities"
        if is_outlier_detector(model):
            return "detects outliers; only classifiers and regressors are packaged"
        if is_regressor(model):
            return ""
    except AttributeError:  # not an estimator of scikit-learn's kind
        return "has no predict_proba; a fitted classifier or regressor is needed"
    return "is neither a classifier with predict_proba nor a regressor; only these are packaged"
