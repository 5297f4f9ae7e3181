"""Reads scikit-learn's decision trees, forests and gradient boosting, with the ways of missing values.

Their trees compare 32-bit values to 64-bit thresholds. skl2onnx 1.20 forgets where missing values go. And a threshold in the
middle between two values of a bootstrap sample is often a value itself (of steps, such as counts), which rounding misplaces.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import PackageError
from tidegate.packaging.sources.boosting import Boosted, Link, classifier_converter, regressor_converter
from tidegate.packaging.sources.trees import Comparison, Leaf, Node, Tree


def converters() -> dict[type, Any]:
    """Return skl2onnx's converters by class, which replace its own."""
    from sklearn import ensemble, tree

    forests = (tree.DecisionTreeClassifier, tree.ExtraTreeClassifier, ensemble.RandomForestClassifier)
    regressions = (tree.DecisionTreeRegressor, tree.ExtraTreeRegressor, ensemble.RandomForestRegressor)
    classifies, regresses = classifier_converter(_forest, narrow=True), regressor_converter(_forest, narrow=True)
    return {
        **dict.fromkeys((*forests, ensemble.ExtraTreesClassifier), classifies),
        **dict.fromkeys((*regressions, ensemble.ExtraTreesRegressor), regresses),
        ensemble.GradientBoostingClassifier: classifier_converter(_gradient_boosting, narrow=True),
        ensemble.GradientBoostingRegressor: regressor_converter(_gradient_boosting, narrow=True),
    }


def _forest(model: Any) -> Boosted:
    """Return the mean of the trees' answers: a target's values, or the classes' shares (of two classes, the second's)."""
    if hasattr(model, "classes_") and isinstance(model.classes_, list):
        raise PackageError(f"{type(model).__name__} classifies several targets at once; fit a model of each")
    members = getattr(model, "estimators_", [model])
    trees = [Tree(_nodes(member.tree_, _answers(model, member.tree_) / len(members))) for member in members]
    targets = model.n_outputs_ if not hasattr(model, "classes_") else len(model.classes_) if len(model.classes_) > 2 else 1
    return Boosted(trees=trees, base=[0.0] * targets, link="identity")


def _answers(model: Any, tree: Any) -> NDArray[np.float64]:
    """Return what each node of a tree would answer, [nodes, targets]."""
    values: NDArray[np.float64] = tree.value
    if not hasattr(model, "classes_"):
        return values[:, :, 0]
    counts = values[:, 0, :]
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return shares[:, 1:] if shares.shape[1] == 2 else shares


def _gradient_boosting(model: Any) -> Boosted:
    if model.init not in (None, "zero"):
        raise PackageError(f"{type(model).__name__} starts from a model of its own; fit it with init=None or init='zero'")
    start = model._raw_predict_init(np.zeros((1, model.n_features_in_), dtype=np.float32))
    trees = [
        Tree(_nodes(member.tree_, member.tree_.value[:, :, 0] * model.learning_rate), target)
        for members in model.estimators_
        for target, member in enumerate(members)
    ]
    link: Link = "identity"
    if hasattr(model, "classes_"):
        link = "sigmoid" if len(model.classes_) == 2 else "softmax"
    return Boosted(trees=trees, base=start.ravel().tolist(), link=link, steepness=2.0 if model.loss == "exponential" else 1.0)


def _nodes(tree: Any, answers: NDArray[np.float64]) -> Sequence[Node]:
    return [
        Leaf(tuple(answer))
        if left < 0
        else Comparison(int(feature), "at most", float(threshold), int(left), int(right), bool(missing_left))
        for answer, left, right, feature, threshold, missing_left in zip(
            answers.tolist(),
            tree.children_left,
            tree.children_right,
            tree.feature,
            tree.threshold,
            tree.missing_go_to_left,
            strict=True,
        )
    ]
