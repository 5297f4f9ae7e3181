"""Finds out what a source model is, by its name and what lies in it, and opens it with the framework that made it.

source = open_source(Path("model.pt2"))
source = wrap_model(pipeline, "trees")                 # a model in memory
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.sources.source import Source

_PICKLES = (".joblib", ".pkl", ".pickle")
_TORCH_PICKLES = (".pt", ".pth")
_PROGRAMS = (".pt2",)  # "torch.export.load() uses pickle under the hood", its documentation says
SUPPORTED = (
    "scikit-learn, XGBoost and LightGBM models (.joblib, .pkl, .pickle), XGBoost's .ubj and .json, LightGBM's .txt, "
    "PyTorch's .pt2, .pt and .pth, Keras' .keras and .h5, a TensorFlow SavedModel's folder, "
    "a Hugging Face transformer's folder, and .onnx"
)


def runs_code(path: Path) -> bool:
    """Return whether opening the model at `path` runs code that it holds: it is a pickle, or there are pickles in it."""
    return path.suffix.lower() in (*_PICKLES, *_TORCH_PICKLES, *_PROGRAMS)


def open_source(path: Path) -> Source:
    """Open the source model at `path`.

    A pickle runs code when it is loaded (`runs_code`): only open files that the user names.

    Raises:
        PackageError: There is none, it cannot be loaded, no framework here knows it, or the framework is not installed.
    """
    if not path.exists():
        raise PackageError(f"source model {path}: no such file or folder")
    return _reader(path)(path)


def wrap_model(model: Any, name: str) -> Source:
    """Return a trained model in memory as a source; `name` is used in messages.

    Which framework's it is, the modules that its class and its base classes come from say: none is imported to find out.

    Raises:
        PackageError: It is none that is supported, or not one that can be packaged.
    """
    for base in type(model).__mro__:
        wrap = _WRAPPERS.get(base.__module__.partition(".")[0])
        if wrap is not None:
            return wrap(model, name)
    if isinstance(model, dict):
        raise PackageError(_only_weights(name))
    if hasattr(model, "predict"):  # behaves as scikit-learn's do, though it is of none of its classes
        return _wrap_sklearn(model, name)
    raise PackageError(f"model {name}: it is a {type(model).__qualname__}, which is no model known here; {SUPPORTED} are")


def _reader(path: Path) -> Callable[[Path], Source]:
    if path.is_dir():
        return _reader_of_folder(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PackageError(f"source model {path}: files ending in {path.suffix or 'nothing'} are not known; {SUPPORTED} are")
    return reader


def _reader_of_folder(path: Path) -> Callable[[Path], Source]:
    if (path / "saved_model.pb").is_file():
        return _read_saved_model
    if (path / "config.json").is_file():
        return _read_transformers
    raise PackageError(
        f"source model {path}: the folder holds neither saved_model.pb (TensorFlow) nor config.json (Hugging Face); "
        f"{SUPPORTED} are known"
    )


def _read_pickle(path: Path) -> Source:
    import joblib

    try:
        model = joblib.load(path)
    except ModuleNotFoundError as error:
        raise PackageError(f"source model {path}: it needs the module {error.name}, which is not installed") from error
    except Exception as error:  # a pickle raises whatever its classes raise
        raise PackageError(f"source model {path}: cannot be loaded: {in_one_line(error)}") from error
    return wrap_model(model, str(path))


def _read_torch_pickle(path: Path) -> Source:
    from tidegate.packaging.sources.torch_file import unpickle_module

    return wrap_model(unpickle_module(path), str(path))


def _read_program(path: Path) -> Source:
    from tidegate.packaging.sources.torch_file import read_program

    return read_program(path)


def _read_keras(path: Path) -> Source:
    from tidegate.packaging.sources.keras_model import read_keras

    return read_keras(path)


def _read_saved_model(path: Path) -> Source:
    from tidegate.packaging.sources.keras_model import read_saved_model

    return read_saved_model(path)


def _read_transformers(path: Path) -> Source:
    from tidegate.packaging.sources.transformers_model import read_transformers

    return read_transformers(path)


def _read_onnx(path: Path) -> Source:
    from tidegate.packaging.sources.onnx_model import OnnxModel, read_onnx

    return OnnxModel(read_onnx(path), str(path))


def _read_xgboost(path: Path) -> Source:
    from tidegate.packaging.sources.xgboost_model import read_xgboost

    return read_xgboost(path)


def _read_lightgbm(path: Path) -> Source:
    from tidegate.packaging.sources.lightgbm_model import read_lightgbm

    return read_lightgbm(path)


_READERS: dict[str, Callable[[Path], Source]] = {
    **dict.fromkeys(_PICKLES, _read_pickle),
    **dict.fromkeys(_TORCH_PICKLES, _read_torch_pickle),
    **dict.fromkeys(_PROGRAMS, _read_program),
    ".keras": _read_keras,
    ".h5": _read_keras,
    ".onnx": _read_onnx,
    ".ubj": _read_xgboost,
    ".json": _read_xgboost,
    ".txt": _read_lightgbm,
}


def _wrap_sklearn(model: Any, name: str) -> Source:
    from tidegate.packaging.sources.sklearn_model import SklearnModel

    return SklearnModel(model, name)


def _wrap_xgboost(model: Any, name: str) -> Source:
    from tidegate.packaging.sources.xgboost_model import wrap

    return wrap(model, name)


def _wrap_lightgbm(model: Any, name: str) -> Source:
    from tidegate.packaging.sources.lightgbm_model import wrap

    return wrap(model, name)


def _wrap_torch(model: Any, name: str) -> Source:
    from tidegate.packaging.sources.torch_model import TorchModel
    from tidegate.packaging.sources.torch_program import TorchProgram

    if type(model).__name__ == "ExportedProgram":
        return TorchProgram(model, name)
    if not hasattr(model, "forward"):
        raise PackageError(f"model {name}: it is a {type(model).__name__}, not a torch.nn.Module or an exported program")
    return TorchModel(model, name)


def _wrap_transformer(model: Any, name: str) -> Source:
    from tidegate.packaging.sources.transformers_model import wrap_transformer

    return wrap_transformer(model, name)


def _wrap_keras(model: Any, name: str) -> Source:
    from tidegate.packaging.sources.keras_model import KerasModel

    return KerasModel(model, name)


def _wrap_saved_model(model: Any, name: str) -> Source:
    from tidegate.packaging.sources.keras_model import SavedModel

    return SavedModel(model, name)


def _wrap_onnx(model: Any, name: str) -> Source:
    from tidegate.packaging.sources.onnx_model import OnnxModel

    return OnnxModel(model, name)


_WRAPPERS: dict[str, Callable[[Any, str], Source]] = {
    "sklearn": _wrap_sklearn,
    "xgboost": _wrap_xgboost,
    "lightgbm": _wrap_lightgbm,
    "transformers": _wrap_transformer,
    "torch": _wrap_torch,
    "keras": _wrap_keras,
    "tensorflow": _wrap_saved_model,
    "onnx": _wrap_onnx,
}


def _only_weights(name: str) -> str:
    return (
        f"model {name}: it holds weights only (a state_dict), not the module; load them into it and "
        "torch.export.save(torch.export.export(module, example), 'model.pt2'), or torch.save(module, 'model.pt')"
    )
