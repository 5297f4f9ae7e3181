"""Source models of LightGBM: its scikit-learn classes, alone or in a pipeline, and Boosters, in memory or in its text files.

The trees are read from `Booster.dump_model()`, up to the best iteration, which is also what is predicted with. How a node
decides is LightGBM's `include/LightGBM/tree.h`, NumericalDecision and CategoricalDecision; what its objectives make of raw
scores is `ConvertOutput` in `src/objective/`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from tidegate.errors import PackageError, in_one_line
from tidegate.extras import needing
from tidegate.packaging.format.manifest import SourceFacts
from tidegate.packaging.sources.boosting import Boosted, Link, classifier_converter, regressor_converter
from tidegate.packaging.sources.trees import Comparison, Leaf, Membership, Node, Tree

if TYPE_CHECKING:
    from tidegate.packaging.sources.sklearn_model import SklearnModel

_ZERO = 1e-35  # LightGBM's kZeroThreshold: what lies nearer to zero is zero
_LINKS: dict[str, Link] = {
    "binary": "sigmoid",
    "multiclass": "softmax",
    "multiclassova": "sigmoid",
    "cross_entropy": "sigmoid",
    "cross_entropy_lambda": "softplus",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "fair": "identity",
    "quantile": "identity",
    "mape": "identity",
}
_WAY_OUT = "encode them in front of it, by OrdinalEncoder in a ColumnTransformer, and name them in categorical_feature by index"


class BoosterClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A Booster of a classification, as scikit-learn wants one."""

    def __init__(self, booster: Any, classes: int) -> None:
        """Number the classes from 0."""
        self.booster_, self.classes_ = booster, np.arange(classes)
        _describe(self, booster)

    def predict_proba(self, rows: Any) -> np.ndarray:
        """Return the probability of each class, [n, classes]."""
        scores = np.asarray(self.booster_.predict(rows))
        return np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores


class BoosterRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A Booster of a regression, as scikit-learn wants one."""

    def __init__(self, booster: Any) -> None:
        """Take it as it is."""
        self.booster_ = booster
        _describe(self, booster)

    def predict(self, rows: Any) -> np.ndarray:
        """Return the predictions, [n]."""
        return np.asarray(self.booster_.predict(rows))


def _describe(estimator: Any, booster: Any) -> None:
    names = booster.feature_name()
    estimator.n_features_in_ = len(names)
    if names != [f"Column_{place}" for place in range(len(names))]:
        estimator.feature_names_in_ = np.asarray(names, dtype=object)


def wrap(model: Any, name: str) -> "SklearnModel":
    """Return a Booster or a fitted model of LightGBM's scikit-learn classes as a source; raises PackageError."""
    from tidegate.packaging.sources.sklearn_model import SklearnModel

    with needing("lightgbm"):
        import lightgbm
    estimator = _estimator_of(model) if isinstance(model, lightgbm.Booster) else model
    facts = SourceFacts(framework="LightGBM", version=lightgbm.__version__, kind=type(model).__name__)
    return SklearnModel(estimator, name, facts=facts)


def read_lightgbm(path: Path) -> "SklearnModel":
    """Return the model in a text file that LightGBM's `save_model` wrote; raises PackageError."""
    with needing("lightgbm"):
        import lightgbm
    try:
        booster = lightgbm.Booster(model_file=str(path))
    except (lightgbm.basic.LightGBMError, OSError, ValueError) as error:
        raise PackageError(f"source model {path}: LightGBM cannot load it: {in_one_line(error)}") from error
    return wrap(booster, str(path))


def converters() -> dict[type, tuple[bool, Any]]:
    """Return skl2onnx's converters of LightGBM's classes, each with whether it is one of a classifier."""
    import lightgbm

    regressor, classifier = regressor_converter(_boosted), classifier_converter(_boosted)
    return {
        lightgbm.LGBMClassifier: (True, classifier),
        lightgbm.LGBMRegressor: (False, regressor),
        BoosterClassifier: (True, classifier),
        BoosterRegressor: (False, regressor),
    }


def _estimator_of(booster: Any) -> Any:
    objective = str(booster.dump_model(num_iteration=1).get("objective", "")).split(" ")[0]
    if objective == "binary" or objective.startswith("multiclass"):
        return BoosterClassifier(booster, max(2, booster.num_model_per_iteration()))
    return BoosterRegressor(booster)


def _boosted(model: Any) -> Boosted:
    document = model.booster_.dump_model()
    objective, _, rest = str(document.get("objective", "")).partition(" ")
    settings = dict(part.split(":") for part in rest.split() if ":" in part)
    if objective not in _LINKS:
        raise PackageError(f"LightGBM's objective {objective or 'of the user'} is not supported; {', '.join(_LINKS)} are")
    if any(values for values in document.get("pandas_categorical") or ()):
        raise PackageError(f"LightGBM encoded the categories of a data frame itself, which no graph does; {_WAY_OUT}")
    targets, trees = document["num_tree_per_iteration"], document["tree_info"]
    share = targets / len(trees) if document.get("average_output") else 1.0
    return Boosted(
        trees=[Tree(_nodes(tree["tree_structure"], share), tree["tree_index"] % targets) for tree in trees],
        base=[0.0] * targets,
        link="signed square" if "sqrt" in rest.split() else _LINKS[objective],
        steepness=float(settings.get("sigmoid", 1.0)),
    )


def _nodes(root: dict[str, Any], share: float) -> list[Node]:
    """Return a tree's nodes, its root first; every leaf's value is multiplied by `share`."""
    nodes: list[Node] = [Leaf((0.0,))]
    waiting = [(root, 0)]
    while waiting:
        node, place = waiting.pop()
        if "split_feature" not in node:
            if node.get("leaf_coeff"):
                raise PackageError("LightGBM's linear_tree is not supported; fit it with linear_tree=False")
            nodes[place] = Leaf((node["leaf_value"] * share,))
            continue
        left, right = len(nodes), len(nodes) + 1
        nodes += [Leaf((0.0,)), Leaf((0.0,))]
        waiting += [(node["left_child"], left), (node["right_child"], right)]
        decision, *more = _decision(node, left, right, free=len(nodes))
        nodes[place] = decision
        nodes += more
    return nodes


def _decision(node: dict[str, Any], left: int, right: int, free: int) -> list[Node]:
    """Return the nodes that decide as this one does: one for its own place, and any others for the places from `free`."""
    feature = node["split_feature"]
    if node["decision_type"] == "==":
        values = tuple(float(value) for value in str(node["threshold"]).split("||"))
        return [Membership(feature, values, left, right, missing_yes=False)]
    threshold, default_left = float(node["threshold"]), bool(node["default_left"])
    if node["missing_type"] != "Zero":  # without missing values in training, NaN is taken for 0
        missing_left = default_left if node["missing_type"] == "NaN" else threshold >= 0
        return [Comparison(feature, "at most", threshold, left, right, missing_left)]
    return _decision_on_zeros(feature, threshold, left, right, free, default_left=default_left)


def _decision_on_zeros(feature: int, threshold: float, left: int, right: int, free: int, *, default_left: bool) -> list[Node]:
    """Return the nodes of a decision that takes zeros for missing; no branch "no" leads where another leads already."""
    if default_left and threshold >= -_ZERO:
        return [Comparison(feature, "at most", max(threshold, _ZERO), left, right, missing_yes=True)]
    if not default_left and threshold <= _ZERO:
        if threshold < -_ZERO:
            return [Comparison(feature, "at most", threshold, left, right, missing_yes=False)]
        return [Comparison(feature, "below", -_ZERO, left, right, missing_yes=False)]
    if default_left:
        return [
            Comparison(feature, "at most", threshold, left, free, missing_yes=True),
            Comparison(feature, "at most", _ZERO, free + 1, right, missing_yes=False),
            Comparison(feature, "below", -_ZERO, right, left, missing_yes=False),
        ]
    return [
        Comparison(feature, "below", -_ZERO, left, free, missing_yes=False),
        Comparison(feature, "at most", _ZERO, right, free + 1, missing_yes=True),
        Comparison(feature, "at most", threshold, left, right, missing_yes=False),
    ]
