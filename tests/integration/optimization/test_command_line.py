"""`tidegate package` and `tidegate optimize` as a user runs them: in processes of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.cli.main import run
from tidegate.packaging.inference import PackageModel
from tidegate.packaging.package import verify_package


def tidegate(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = "from tidegate.cli.main import run; run()"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def package(files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "package"
    done = tidegate(
        "package", files / "mlp.joblib", "--sample", files / "sample.parquet", "--out", out, "--name", "flights",
        "--labels", "on-time,late", "--label-column", "label",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_package_writes_a_package_that_agrees_with_its_source(package: Path, files) -> None:
    import joblib
    import pandas as pd

    from tidegate.packaging.inputs import training_arrays

    manifest = verify_package(package)
    data = pq.read_table(files / "data.parquet")
    names = [spec.name for spec in manifest.signature.inputs]
    expected = joblib.load(files / "mlp.joblib").predict_proba(pd.DataFrame(training_arrays(data, names)))[:, 1]
    assert (manifest.name, manifest.classes) == ("flights", ("on-time", "late"))
    assert [verdict.passed for verdict in manifest.verdicts] == [True, True]
    np.testing.assert_allclose(PackageModel(package).predict(data), expected, atol=1e-5)


def test_optimize_selects_and_explains(package: Path, files, tmp_path: Path) -> None:
    done = tidegate(
        "optimize", package, "--data", files / "data.parquet", "--label-column", "label", "--out", tmp_path / "out", "--json"
    )

    assert done.returncode == 0, done.stderr
    selection = json.loads(done.stdout)
    rows = {row["name"]: row for row in selection["rows"]}
    assert list(rows) == [
        f"model/{variant}" for variant in ("baseline", "graph-optimized", "fp16", "int8-dynamic", "int8-static")
    ]
    assert rows[selection["winner"]]["status"] == "passed"
    assert verify_package(Path(selection["package"])).name == "flights"


def test_optimize_without_labels_for_size_takes_the_smallest(package: Path, files, tmp_path: Path) -> None:
    done = tidegate("optimize", package, "--data", files / "data.parquet", "--out", tmp_path / "out", "--objective", "size")

    assert done.returncode == 0, done.stderr
    selection = json.loads((tmp_path / "out" / "selection.json").read_text())
    passed = [row for row in selection["rows"] if row["status"] == "passed"]
    assert selection["winner"] == min(passed, key=lambda row: row["size"])["name"]
    assert selection["winner"] in done.stdout


def test_optimize_fetches_from_an_object_store(package: Path, files, tmp_path: Path, s3_bucket: str) -> None:
    from tidegate.storage import open_store

    store = open_store(f"s3://{s3_bucket}/models/1")
    for file in package.iterdir():
        store.upload(file.name, file)

    done = tidegate(
        "optimize", f"s3://{s3_bucket}/models/1/", "--data", files / "data.parquet", "--out", tmp_path / "out", "--json"
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["winner"]


def _corrupted(package: Path, folder: Path) -> Path:
    copy = shutil.copytree(package, folder / "corrupted")
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:100])
    return copy


def _write(folder: Path, table: pa.Table) -> Path:
    pq.write_table(table, folder / "given.parquet")
    return folder / "given.parquet"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            lambda package, files, folder: ["optimize", _corrupted(package, folder), "--data", files / "data.parquet"],
            "model.onnx has 100 bytes", id="optimize: truncated package",
        ),
        pytest.param(
            lambda package, files, folder: ["optimize", folder / "none", "--data", files / "data.parquet"],
            "not a model package", id="optimize: no package",
        ),
        pytest.param(
            lambda package, files, folder: [
                "optimize", package, "--data",
                _write(folder, pq.read_table(files / "data.parquet").drop_columns("hour")),
            ],
            "column 'hour' is missing", id="optimize: missing column",
        ),
        pytest.param(
            lambda package, files, folder: ["optimize", package, "--data", files / "mlp.joblib"],
            "not a readable Parquet file", id="optimize: data is no Parquet",
        ),
        pytest.param(
            lambda package, files, folder: ["optimize", package, "--data", files / "data.parquet", "--target", "tensorrt"],
            "--target tensorrt is not available yet", id="optimize: a target that does not exist yet",
        ),
        pytest.param(
            lambda package, files, folder: ["optimize", package, "--data", files / "data.parquet", "--label-column", "nope"],
            "label column 'nope' is missing", id="optimize: missing label",
        ),
        pytest.param(
            lambda package, files, folder: ["package", files / "wrong.joblib", "--sample", files / "sample.parquet",
                                            "--label-column", "label"],
            "does not agree with the source model", id="package: the silently wrong export",
        ),
        pytest.param(
            lambda package, files, folder: ["package", files / "mlp.joblib", "--sample",
                                            _write(folder, pq.read_table(files / "sample.parquet").slice(0, 0))],
            "holds no rows", id="package: empty sample",
        ),
        pytest.param(
            lambda package, files, folder: ["package", files / "sample.parquet", "--sample", files / "sample.parquet"],
            "cannot be loaded", id="package: no pickle",
        ),
        pytest.param(
            lambda package, files, folder: ["package", files / "mlp.joblib", "--sample", files / "sample.parquet",
                                            "--labels", "late"],
            "two different names are needed", id="package: one label",
        ),
        pytest.param(
            lambda package, files, folder: ["package", files / "mlp.joblib", "--sample",
                                            _write(folder, pq.read_table(files / "sample.parquet").drop_columns("hour"))],
            "column 'hour' is missing", id="package: sample lacks an input",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line_and_nothing_is_written(
    package: Path, files, tmp_path: Path, arguments, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "given"
    given.mkdir()

    with pytest.raises(SystemExit) as ended:
        run([str(argument) for argument in (*arguments(package, files, given), "--out", tmp_path / "out")])

    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 1
    assert last.startswith("error: ")
    assert said in last
    assert not (tmp_path / "out").exists()


def test_a_variant_whose_process_crashes_is_lost_alone(package: Path, files, tmp_path: Path, monkeypatch) -> None:
    from tidegate.cli import optimize

    real = subprocess.run

    def crashing(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if arguments[-2].endswith("/fp16"):
            arguments = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
        return real(arguments, **options)

    monkeypatch.setattr(optimize.subprocess, "run", crashing)

    optimize.command(str(package), files / "data.parquet", tmp_path / "out", None, "cpu", "latency", as_json=True)

    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "selection.json").read_text())["rows"]}
    assert rows["model/fp16"]["status"] == "failed"
    assert rows["model/fp16"]["reason"] == "the process ended with status -11"
    assert rows["model/int8-dynamic"]["status"] == "passed"
