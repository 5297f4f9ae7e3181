"""Source models of XGBoost: its scikit-learn classes, alone or in a pipeline, and Boosters, in memory or in its own files.

The trees are read from XGBoost's JSON document of the model (https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html)
up to the best iteration, which is also what its classes predict with.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tidegate.errors import PackageError
from tidegate.extras import needing
from tidegate.packaging.format.manifest import SourceFacts
from tidegate.packaging.sources.boosting import Boosted, Link, classifier_converter, regressor_converter
from tidegate.packaging.sources.trees import Comparison, Leaf, Membership, Node, Tree

if TYPE_CHECKING:
    from tidegate.packaging.sources.sklearn_model import SklearnModel

_LINKS: dict[str, Link] = {
    "binary:logistic": "sigmoid",
    "reg:logistic": "sigmoid",
    "binary:hinge": "step",
    "multi:softprob": "softmax",
    "multi:softmax": "softmax",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "survival:cox": "exp",
    "survival:aft": "exp",
    "reg:squarederror": "identity",
    "reg:squaredlogerror": "identity",
    "reg:absoluteerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:quantileerror": "identity",
    "reg:expectileerror": "identity",
}
_CATEGORIES_WAY_OUT = "encode them in front of it, by OrdinalEncoder or OneHotEncoder in a ColumnTransformer, as plain numbers"


def wrap(model: Any, name: str) -> "SklearnModel":
    """Return a Booster or a fitted model of XGBoost's scikit-learn classes as a source; raises PackageError."""
    from tidegate.packaging.sources.sklearn_model import SklearnModel

    with needing("xgboost"):
        import xgboost
    estimator = _estimator_of(model, name) if isinstance(model, xgboost.Booster) else model
    facts = SourceFacts(framework="XGBoost", version=xgboost.__version__, kind=type(model).__name__)
    return SklearnModel(estimator, name, facts=facts)


def read_xgboost(path: Path) -> "SklearnModel":
    """Return the model in a file that XGBoost's `save_model` wrote (`.ubj` or `.json`); raises PackageError."""
    with needing("xgboost"):
        import xgboost
    try:
        booster = xgboost.Booster(model_file=str(path))
    except xgboost.core.XGBoostError as error:
        reason = str(error).strip().splitlines()[0]
        raise PackageError(f"source model {path}: XGBoost cannot load it: {reason[:200]}") from error
    return wrap(booster, str(path))


def converters() -> dict[type, tuple[bool, Any]]:
    """Return skl2onnx's converters of XGBoost's classes, each with whether it is one of a classifier."""
    import xgboost

    regressor, classifier = regressor_converter(_boosted, narrow=True), classifier_converter(_boosted, narrow=True)
    return {
        xgboost.XGBClassifier: (True, classifier),
        xgboost.XGBRFClassifier: (True, classifier),
        xgboost.XGBRegressor: (False, regressor),
        xgboost.XGBRFRegressor: (False, regressor),
    }


def _estimator_of(booster: Any, name: str) -> Any:
    """Return XGBoost's scikit-learn model of a Booster: a classifier if its objective is one of classes."""
    import xgboost

    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    kind = xgboost.XGBClassifier if objective.startswith(("binary:", "multi:")) else xgboost.XGBRegressor
    estimator = kind()
    try:
        estimator.load_model(bytearray(booster.save_raw("ubj")))
    except (xgboost.core.XGBoostError, TypeError) as error:
        raise PackageError(f"model {name}: XGBoost cannot load it as {kind.__name__}: {str(error)[:200]}") from error
    return estimator


def _boosted(model: Any) -> Boosted:
    if not np.isnan(model.missing):
        raise PackageError(f"{type(model).__name__} takes {model.missing} for missing; fit it with missing=NaN")
    booster = model.get_booster()
    best = booster.attr("best_iteration")
    learner = json.loads((booster if best is None else booster[: int(best) + 1]).save_raw("json").decode())["learner"]
    objective = learner["objective"]["name"]
    if objective not in _LINKS:
        raise PackageError(f"XGBoost's objective {objective} is not supported; {', '.join(sorted(_LINKS))} are")
    trees, targets, weights = _trees_of(learner["gradient_booster"])
    return Boosted(
        trees=[Tree(_nodes(tree, weight), target) for tree, target, weight in zip(trees, targets, weights, strict=True)],
        base=_base(learner["learner_model_param"], objective),
        link=_LINKS[objective],
    )


def _trees_of(gradient_booster: dict[str, Any]) -> tuple[list[Any], list[int], list[float]]:
    name = gradient_booster["name"]
    if name == "gblinear":
        raise PackageError("XGBoost's booster gblinear has no trees; use a linear model of scikit-learn instead")
    model = gradient_booster["gbtree"]["model"] if name == "dart" else gradient_booster["model"]
    if any(part["offsets"] or part["values"] for part in model.get("cats", {}).get("enc", ())):
        raise PackageError(f"XGBoost encoded the categories of a data frame itself, which no graph does; {_CATEGORIES_WAY_OUT}")
    trees = model["trees"]
    if any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in trees):
        raise PackageError("XGBoost's multi_output_tree is not supported; fit it with multi_strategy='one_output_per_tree'")
    return trees, model["tree_info"], gradient_booster["weight_drop"] if name == "dart" else [1.0] * len(trees)


def _base(parameters: dict[str, str], objective: str) -> list[float]:
    """Return the raw scores to start from: the document's base score lies where the predictions do."""
    count = max(1, int(parameters["num_class"]), int(parameters["num_target"]))
    score = np.ravel(json.loads(parameters["base_score"])).astype(np.float64)
    if _LINKS[objective] == "exp":
        score = np.log(score)
    elif _LINKS[objective] == "sigmoid":
        score = -np.log(1 / score - 1)
    return [float(start) for start in np.broadcast_to(score, count)]


def _nodes(tree: dict[str, Any], weight: float) -> list[Node]:
    categories = {
        node: tree["categories"][start : start + size]
        for node, start, size in zip(
            tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
        )
    }
    nodes: list[Node] = []
    for place, (left, right) in enumerate(zip(tree["left_children"], tree["right_children"], strict=True)):
        value = float(np.float32(tree["split_conditions"][place]))  # the document has the shortest text of a 32-bit number
        feature = int(tree["split_indices"][place])
        missing_left = bool(tree["default_left"][place])
        if left < 0:
            nodes.append(Leaf((value * weight,)))
        elif tree["split_type"][place]:
            chosen = tuple(float(code) for code in categories[place])
            nodes.append(Membership(feature, chosen, yes=right, no=left, missing_yes=not missing_left))
        else:
            nodes.append(Comparison(feature, "below", value, left, right, missing_left))
    return nodes
