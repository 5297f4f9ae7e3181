"""`tidegate package` as a user runs it, in a process of its own for each framework."""

import json
import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from sklearn.linear_model import LinearRegression

from tidegate.cli.main import run
from tidegate.packaging.format.package import verify_package
from tidegate.packaging.running.inference import PackageModel
from tidegate.packaging.sample_file import read_sample

QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "OMP_NUM_THREADS": "1"}


def tidegate(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    program = "from tidegate.cli.main import run; run()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=folder,
        env=QUIET,
    )


def made(framework: str, folder: Path) -> Path:
    script = Path(__file__).with_name("make_model.py")
    subprocess.run([sys.executable, "-W", "ignore", script, framework, folder], check=True, timeout=180, env=QUIET)
    return folder


@pytest.mark.parametrize(
    ("framework", "model", "sample", "options", "output", "task"),
    [
        pytest.param(
            "pytorch", "model.pt2", "sample.npz", ["--task", "multiclass-classification", "--activation", "softmax"],
            "probabilities", "multiclass-classification", id="PyTorch",
        ),
        pytest.param("transformers", "model", "sample.npz", [], "probability", "binary-classification", id="transformers"),
        pytest.param("keras", "model.keras", "sample.npz", ["--task", "regression"], "prediction", "regression", id="Keras"),
        pytest.param(
            "xgboost", "model.ubj", "sample.parquet", ["--label-column", "kind", "--labels", "red,green,blue"],
            "probabilities", "multiclass-classification", id="XGBoost",
        ),
    ],
)  # fmt: skip
def test_a_package_answers_as_the_framework_does(
    tmp_path: Path, framework: str, model: str, sample: str, options: list[str], output: str, task: str
) -> None:
    folder = made(framework, tmp_path)

    done = tidegate("package", model, "--sample", sample, "--out", "package", "--name", "made", *options, folder=folder)

    assert done.returncode == 0, done.stderr
    assert "packaged  made at package" in done.stdout
    assert "parity: largest error of" in done.stdout
    assert ("is a pickle, or holds some" in done.stderr) == (framework == "pytorch")
    assert len(done.stderr.strip().splitlines()) <= 1  # no framework talks in between
    manifest = verify_package(folder / "package")
    assert (manifest.name, manifest.task) == ("made", task)
    assert all(verdict.passed for verdict in manifest.verdicts)
    with np.load(folder / "answers.npz") as answers:
        expected = answers[output]
    found = PackageModel(folder / "package").outputs(read_sample(folder / sample))[output]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a graph of two inputs and two outputs, a regression, and samples of them."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Identity", ["a"], ["logits"])]
    kind = (TensorProto.FLOAT, ["n", 3])
    inputs, outputs = (
        [helper.make_tensor_value_info(name, *kind) for name in names] for names in (("a", "b"), ("sum", "logits"))
    )
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "model.onnx")
    values = np.random.default_rng(0).normal(size=(20, 3))
    np.savez(tmp_path / "sample.npz", a=values, b=values)
    np.savez(tmp_path / "holdout.npz", a=values[:7] * 2, b=values[:7])
    joblib.dump(LinearRegression().fit(values, values[:, 0]), tmp_path / "regression.joblib")
    pq.write_table(pa.table({f"c{place}": values[:, place] for place in range(3)}), tmp_path / "sample.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json_says_everything_and_a_holdout_becomes_the_reference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["package", "model.onnx", "--sample", "sample.npz", "--holdout", "holdout.npz", "--out", "out", "--json"])

    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == str(folder / "out")
    assert [spec["name"] for spec in document["manifest"]["signature"]["outputs"]] == ["sum", "logits"]
    reference = pq.read_table(folder / "out" / "reference.parquet")
    assert reference.num_rows == 7


def test_a_pickle_is_said_to_run_its_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["package", "regression.joblib", "--sample", "sample.parquet", "--out", "out"])

    assert ended.value.code == 0
    assert "regression.joblib is a pickle, or holds some: loading it runs the code in it" in capsys.readouterr().err
    assert verify_package(folder / "out").task == "regression"


def test_what_becomes_of_unusual_values_is_in_the_package(folder: Path) -> None:
    rules = ["--out-of-range", "reject", "--missing", "impute", "--unknown-category", "impute"]

    with pytest.raises(SystemExit) as ended:
        run(["package", "regression.joblib", "--sample", "sample.parquet", "--out", "out", *rules])

    assert ended.value.code == 0
    inputs = verify_package(folder / "out").signature.inputs
    assert {(spec.policy.out_of_range, spec.policy.missing) for spec in inputs} == {("reject", "impute")}
    assert all(spec.minimum <= spec.policy.imputed <= spec.maximum for spec in inputs)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param("none.onnx --sample sample.npz", "no such file or folder", id="no model"),
        pytest.param("model.onnx --sample none.npz", "no such file; give a .parquet or a .npz file", id="no sample"),
        pytest.param("sample.npz --sample sample.npz", "files ending in .npz are not known", id="no model's file"),
        pytest.param("model.onnx --sample sample.parquet", "column 'a' is missing", id="another sample"),
        pytest.param("model.onnx --sample sample.npz --activation softmax", "--activation softmax needs --task", id="no task"),
        pytest.param("model.onnx --sample sample.npz --output sum", "--output sum needs --task", id="output without task"),
        pytest.param(
            "model.onnx --sample sample.npz --task multiclass-classification --activation softmax",
            "it has several outputs; give --output, one of sum, logits",
            id="which output",
        ),
        pytest.param(
            "model.onnx --sample sample.npz --task multiclass-classification --output logits",
            "which are no probabilities of a multiclass-classification; give --activation softmax",
            id="logits taken for probabilities",
        ),
        pytest.param(
            "model.onnx --sample sample.npz --task multiclass-classification --output logits --activation softmax --labels a,b",
            "2 classes are named (a, b), but the model has 3",
            id="too few labels",
        ),
        pytest.param("model.onnx --sample sample.npz --threshold 0.4", "only a model of two classes has one", id="threshold"),
        pytest.param("model.onnx --sample sample.npz --labels a,a", "at least two different names", id="equal labels"),
        pytest.param(
            "regression.joblib --sample sample.parquet --task binary-classification --activation sigmoid",
            "the model says itself that it is a regression; give neither --task nor --activation",
            id="a task that the model knows better",
        ),
        pytest.param(
            "regression.joblib --sample sample.parquet --activation softmax",
            "--activation softmax: the model says itself that it is a regression, and how; leave it out",
            id="an activation of a model that has its own",
        ),
        pytest.param("model.onnx --sample sample.npz --sign-key none.pem", "none.pem", id="no key"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(
    folder: Path, command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["package", *command.split(), "--out", "out"])

    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 1
    assert last.startswith("error: ")
    assert said in last
    assert not (folder / "out").exists()
