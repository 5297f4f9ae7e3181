"""Looks through the parts of an estimator: says them so that skl2onnx reads them, and knows what it is known to get wrong."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder


def parts(model: Any) -> Iterator[Any]:
    """Yield a model and every estimator that it is made of, as far as its attributes and their members tell."""
    yield model
    for value in vars(model).values() if hasattr(model, "__dict__") else ():
        for inner in _members(value):
            if hasattr(inner, "get_params") and not isinstance(inner, type):
                yield from parts(inner)


def readable(model: Any) -> Any:
    """Return a model that predicts the same and that skl2onnx reads: a shallow copy where something had to be said otherwise.

    Columns chosen by a slice, a mask or a function are said one by one, and a vote's probabilities are averaged (which
    `flatten_transform` has no say in).
    """
    if isinstance(model, Pipeline):
        return _changed(model, steps=[(name, readable(step)) for name, step in model.steps])
    if isinstance(model, ColumnTransformer):
        return _changed(model, transformers_=[(name, step, _columns(model, name)) for name, step, _ in model.transformers_])
    if isinstance(model, VotingClassifier):
        return _changed(model, flatten_transform=False)
    return model


def knows_missing_text(model: Any) -> bool:
    """Return whether an encoder was fitted with missing texts as None or NaN, which served rows never hold."""
    encoders = (part for part in parts(model) if isinstance(part, OneHotEncoder | OrdinalEncoder))
    return any(
        categories.dtype == object
        and any(not isinstance(value, str) and (value is None or value != value) for value in categories)
        for encoder in encoders
        for categories in getattr(encoder, "categories_", ())
    )


def known_wrong(model: Any) -> str:
    """Return what skl2onnx is known to get wrong in a model, and the way out; empty if nothing is known."""
    found = {reason for part in parts(model) for applies, reason in _KNOWN_WRONG if applies(part)}
    return "; ".join(sorted(found))


_KNOWN_WRONG: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda part: isinstance(part, SimpleImputer) and part.add_indicator,
        "skl2onnx ignores the add_indicator of SimpleImputer; leave it out, or give what is missing as a column",
    ),
    (
        lambda part: isinstance(part, LinearDiscriminantAnalysis),
        "skl2onnx gives the probabilities of LinearDiscriminantAnalysis wrongly; use LogisticRegression",
    ),
)


def _changed(model: Any, **attributes: Any) -> Any:
    changed = copy.copy(model)
    for name, value in attributes.items():
        setattr(changed, name, value)
    return changed


def _columns(transformer: ColumnTransformer, name: str) -> list[Any]:
    places = transformer._transformer_to_input_indices[name]
    names = getattr(transformer, "feature_names_in_", None)
    return list(places) if names is None else [str(names[place]) for place in places]


def _members(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _members(item)
    elif isinstance(value, dict):
        yield from _members(list(value.values()))
    elif isinstance(value, np.ndarray) and value.dtype == object:
        yield from _members(value.ravel().tolist())
    else:
        yield value
