"""Finds out what a source model is, and opens it."""

from pathlib import Path
from typing import Any

import joblib

from tidegate.errors import PackageError
from tidegate.packaging.sources.sklearn_model import SklearnModel
from tidegate.packaging.sources.source import Source


def open_source(path: Path) -> Source:
    """Open the source model at `path`.

    A joblib or pickle file runs code when it is loaded: only open files that the user names.

    Raises:
        PackageError: There is none, it cannot be loaded, or no framework here knows it.
    """
    return wrap_model(_unpickle(path), str(path))


def wrap_model(model: Any, name: str) -> Source:
    """Return a trained model in memory as a source; `name` is used in messages. Raises PackageError for an unknown kind."""
    return SklearnModel(model, name)


def _unpickle(path: Path) -> Any:
    try:
        return joblib.load(path)
    except Exception as error:  # a pickle raises whatever its classes raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PackageError(f"source model {path}: cannot be loaded: {reason[:300]}") from error
