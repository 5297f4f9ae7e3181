"""What is at a path: the right framework opens it, a missing one is named, and what is none of them is refused in words."""

import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import onnx
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from tests.unit.packaging.sources.test_onnx import linear
from tidegate.errors import PackageError
from tidegate.packaging.sources.opening import open_source, runs_code, wrap_model

ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
LABELS = (ROWS[:, 0] > 0).astype(int)


def _regression() -> LinearRegression:
    return LinearRegression().fit(ROWS, ROWS[:, 0])


def _write_joblib(folder: Path) -> Path:
    joblib.dump(LogisticRegression().fit(ROWS, LABELS), folder / "model.joblib")
    return folder / "model.joblib"


def _write_pickle(folder: Path) -> Path:
    (folder / "model.pkl").write_bytes(pickle.dumps(_regression()))
    return folder / "model.pkl"


def _write_onnx(folder: Path) -> Path:
    onnx.save(linear(), folder / "model.ONNX")
    return folder / "model.ONNX"


def _write_xgboost(folder: Path, suffix: str) -> Path:
    import xgboost

    xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(ROWS, LABELS).save_model(folder / f"model{suffix}")
    return folder / f"model{suffix}"


def _write_lightgbm(folder: Path) -> Path:
    import lightgbm

    model = lightgbm.LGBMRegressor(n_estimators=2, n_jobs=1, verbose=-1).fit(ROWS, ROWS[:, 0])
    model.booster_.save_model(folder / "model.txt")
    return folder / "model.txt"


@pytest.mark.parametrize(
    ("write", "framework", "task", "code"),
    [
        pytest.param(_write_joblib, "scikit-learn", "binary-classification", True, id="joblib"),
        pytest.param(_write_pickle, "scikit-learn", "regression", True, id="pickle"),
        pytest.param(_write_onnx, "ONNX", "tensors", False, id="ONNX, in capitals"),
        pytest.param(lambda folder: _write_xgboost(folder, ".ubj"), "XGBoost", "binary-classification", False, id="ubj"),
        pytest.param(lambda folder: _write_xgboost(folder, ".json"), "XGBoost", "binary-classification", False, id="json"),
        pytest.param(_write_lightgbm, "LightGBM", "regression", False, id="LightGBM"),
    ],
)
def test_a_file_is_opened_by_the_framework_that_wrote_it(
    tmp_path: Path, write: Callable[[Path], Path], framework: str, task: str, code: bool
) -> None:
    path = write(tmp_path)

    source = open_source(path)

    assert (source.facts.framework, source.task, runs_code(path)) == (framework, task, code)


@pytest.mark.parametrize("suffix", [".joblib", ".pkl", ".pickle", ".pt", ".pth", ".pt2"])
def test_whatever_holds_pickles_runs_code(suffix: str) -> None:
    assert runs_code(Path(f"model{suffix}"))
    assert runs_code(Path(f"MODEL{suffix.upper()}"))


def test_models_in_memory_are_known_by_their_classes() -> None:
    class Own(LogisticRegression):
        pass

    assert wrap_model(Own().fit(ROWS, LABELS), "own").task == "binary-classification"
    assert wrap_model(linear(), "graph").facts.framework == "ONNX"


def test_no_framework_is_imported_to_find_out_that_it_is_not_needed() -> None:
    program = (
        "import sys, numpy as np\n"
        "from sklearn.linear_model import LinearRegression\n"
        "from tidegate.packaging.sources.opening import wrap_model\n"
        "wrap_model(LinearRegression().fit(np.ones((2, 1)), np.ones(2)), 'model')\n"
        "print(sorted({'torch', 'tensorflow', 'keras', 'transformers', 'xgboost', 'lightgbm'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _script(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    return folder / "model.pt"


def _folder(*names: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        for name in names:
            (folder / name).write_text("{}")
        return folder

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        pytest.param(lambda folder: folder / "none.onnx", "no such file or folder", id="missing"),
        pytest.param(_file("model.bin", b""), "files ending in .bin are not known; scikit-learn, XGBoost", id="unknown ending"),
        pytest.param(_file("model", b""), "files ending in nothing are not known", id="no ending"),
        pytest.param(_file("model.joblib", b"hello"), "cannot be loaded", id="no pickle"),
        pytest.param(_file("model.joblib", b""), "cannot be loaded", id="empty pickle"),
        pytest.param(_file("model.pkl", pickle.dumps([1, 2])), "it is a list, which is no model known here", id="a list"),
        pytest.param(_file("model.pkl", pickle.dumps({"w": 1})), r"holds weights only \(a state_dict\)", id="weights"),
        pytest.param(
            _file("model.pkl", b"cnowhere\nModel\n."),
            "it needs the module nowhere, which is not installed",
            id="unknown module",
        ),
        pytest.param(_file("model.onnx", b"hello"), "not a readable ONNX file", id="no ONNX"),
        pytest.param(_file("model.ubj", b"hello"), "XGBoost cannot load it", id="no ubj"),
        pytest.param(_file("model.json", json.dumps({"a": 1}).encode()), "XGBoost cannot load it", id="another JSON"),
        pytest.param(_file("model.txt", b"hello"), "LightGBM cannot load it", id="another text"),
        pytest.param(_script, "it is TorchScript, which PyTorch has deprecated; export the module", id="TorchScript"),
        pytest.param(_file("model.pt", b"hello"), "PyTorch cannot load it", id="no PyTorch"),
        pytest.param(_file("model.pt2", b"hello"), "PyTorch cannot load it as an exported program", id="no program"),
        pytest.param(_folder("notes.txt"), "holds neither saved_model.pb", id="another folder"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, write: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(PackageError, match=said) as refused:
        open_source(write(tmp_path))

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("write", "module", "extra"),
    [
        pytest.param(_file("model.pt2", b""), "torch", "pytorch", id="PyTorch"),
        pytest.param(_file("model.keras", b""), "keras", "tensorflow", id="Keras"),
        pytest.param(_folder("saved_model.pb"), "keras", "tensorflow", id="TensorFlow"),
        pytest.param(_folder("config.json"), "transformers", "transformers", id="transformers"),
        pytest.param(_file("model.ubj", b""), "xgboost", "xgboost", id="XGBoost"),
        pytest.param(_file("model.txt", b""), "lightgbm", "lightgbm", id="LightGBM"),
    ],
)
def test_a_missing_framework_is_named_with_its_extra(
    tmp_path: Path, write: Callable[[Path], Path], module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("tidegate.packaging.sources.")]:
        if name.partition("sources.")[2].startswith(("torch_", "keras_", "transformers_")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(PackageError, match=rf"{module} is not installed; pip install 'tidegate\[{extra}\]'"):
        open_source(write(tmp_path))
