"""Reads the trees of scikit-learn's HistGradientBoosting, categorical features included."""

from typing import Any

import numpy as np

from tidegate.errors import PackageError
from tidegate.packaging.sources.boosting import Boosted, Link, classifier_converter, regressor_converter
from tidegate.packaging.sources.trees import Comparison, Leaf, Membership, Node, Tree

_WAY_OUT = "fit it without categorical_features behind an OrdinalEncoder or a OneHotEncoder, in a ColumnTransformer"


def converters() -> dict[type, Any]:
    """Return skl2onnx's converters by class, which replace its own."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    return {
        HistGradientBoostingClassifier: classifier_converter(_boosted),
        HistGradientBoostingRegressor: regressor_converter(_boosted),
    }


def _boosted(model: Any) -> Boosted:
    columns, categories = _features(model)
    trees = [
        Tree([_node(predictor, node, columns, categories) for node in predictor.nodes], target)
        for predictors in model._predictors
        for target, predictor in enumerate(predictors)
    ]
    return Boosted(trees=trees, base=np.ravel(model._baseline_prediction).tolist(), link=_link(model))


def _link(model: Any) -> Link:
    if hasattr(model, "classes_"):
        return "sigmoid" if len(model.classes_) == 2 else "softmax"
    return "exp" if model.loss in ("poisson", "gamma") else "identity"


def _features(model: Any) -> tuple[list[int], dict[int, list[float]]]:
    """Return which column each of the trees' features is, and the values that the codes of categorical ones stand for.

    With categorical features, the model puts them first, and encodes each as its value's place among the known ones.
    """
    count, categorical = model._n_features, model.is_categorical_
    if categorical is None:
        return list(range(count)), {}
    columns = [*np.flatnonzero(categorical).tolist(), *np.flatnonzero(~categorical).tolist()]
    encoder = model._preprocessor.named_transformers_["encoder"]
    if any(np.asarray(values).dtype.kind not in "biuf" for values in encoder.categories_):
        raise PackageError(
            f"{type(model).__name__} has categorical_features of text, which no graph of trees reads; {_WAY_OUT}"
        )
    known = [[float(value) for value in values if not np.isnan(value)] for values in encoder.categories_]
    return columns, dict(enumerate(known))


def _node(predictor: Any, node: Any, columns: list[int], categories: dict[int, list[float]]) -> Node:
    if node["is_leaf"]:
        return Leaf((float(node["value"]),))
    feature, left, right = int(node["feature_idx"]), int(node["left"]), int(node["right"])
    missing_left = bool(node["missing_go_to_left"])
    if not node["is_categorical"]:
        return Comparison(columns[feature], "at most", float(node["num_threshold"]), left, right, missing_left)
    bits = predictor.raw_left_cat_bitsets[int(node["bitset_idx"])]
    goes_left = [bool(bits[code // 32] >> np.uint32(code % 32) & np.uint32(1)) for code in range(len(categories[feature]))]
    # A value that training did not know is missing to the model; so the set is that of the other side's known values.
    values = tuple(value for value, left_bit in zip(categories[feature], goes_left, strict=True) if left_bit != missing_left)
    yes, no = (right, left) if missing_left else (left, right)
    return Membership(columns[feature], values, yes, no, missing_yes=False)
