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
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tidegate.cli.main import run
from tidegate.cli.optimize import _names as asked_names
from tidegate.errors import OptimizationError
from tidegate.optimization.variants import variant_names
from tidegate.packaging.format.package import verify_package
from tidegate.packaging.format.signing import verify_signature
from tidegate.packaging.running.inference import PackageModel
from tidegate.project import GatesSection


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


def optimize(package: Path | str, files, out: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return tidegate("optimize", package, "--data", files / "data.parquet", "--out", out, *more)


def test_optimize_selects_and_explains(package: Path, files, gates: Path, tmp_path: Path) -> None:
    done = optimize(package, files, tmp_path / "out", "--label-column", "label", "--gates", gates, "--json")

    assert done.returncode == 0, done.stderr
    selection = json.loads(done.stdout)
    rows = {row["name"]: row for row in selection["rows"]}
    assert list(rows) == [f"model/{variant}" for variant in ("baseline", *variant_names())], "all of the target's"
    assert {row["status"] for row in rows.values()} == {"passed", "not-applicable", "failed"}
    assert all(row["reason"] for row in rows.values())
    assert rows[selection["winner"]]["status"] == "passed"
    winner = verify_package(Path(selection["package"]))
    assert winner.name == "flights"
    assert [row.variant for row in winner.search] == list(rows)
    assert f"Selected: {selection['winner']}" in Path(selection["report"]).read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"package", "report.html", "selection.json"}


def test_optimize_without_labels_for_size_takes_the_smallest(package: Path, files, gates: Path, tmp_path: Path) -> None:
    names = "graph-optimized,fp16,int8-dynamic"
    done = optimize(package, files, tmp_path / "out", "--objective", "size", "--variants", names, "--gates", gates)

    assert done.returncode == 0, done.stderr
    selection = json.loads((tmp_path / "out" / "selection.json").read_text())
    passed = [row for row in selection["rows"] if row["status"] == "passed"]
    assert selection["winner"] == min(passed, key=lambda row: row["footprint"]["size_bytes"])["name"]
    assert selection["winner"] in done.stdout
    assert "not applicable" not in done.stderr


def test_optimize_shows_every_number_where_there_is_room(
    package: Path, files, gates: Path, tmp_path: Path, monkeypatch
) -> None:
    arguments = [package, files, tmp_path / "out", "--variants", "int8-dynamic", "--gates", gates, "--label-column", "label"]
    heads = {}
    for columns in ("80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        heads[columns] = " ".join(optimize(*arguments).stdout.splitlines()[0].split())

    assert heads["80"] == "variant outcome parity roc_auc p50 µs p99 µs rows/s kB"
    assert heads["200"] == "variant outcome parity roc_auc p50 µs p99 µs p50 ratio rows/s load s MB kB cost"


def test_optimize_signs_the_winner(package: Path, files, gates: Path, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )

    done = optimize(package, files, tmp_path / "out", "--variants", "fp16", "--gates", gates, "--sign-key", private)

    assert done.returncode == 0, done.stderr
    assert verify_signature(tmp_path / "out" / "package", public).name == "flights"


def test_optimize_fetches_from_an_object_store(package: Path, files, gates: Path, tmp_path: Path, s3_bucket: str) -> None:
    from tidegate.storage import open_store

    store = open_store(f"s3://{s3_bucket}/models/1")
    for file in package.iterdir():
        store.upload(file.name, file)

    address = f"s3://{s3_bucket}/models/1/"
    done = optimize(address, files, tmp_path / "out", "--variants", "fp16", "--gates", gates, "--json")

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
            lambda package, files, folder: ["optimize", package, "--data", files / "data.parquet", "--target", "cuda"],
            "--target cuda: this ONNX Runtime has no CUDAExecutionProvider (it has", id="optimize: a target that is not here",
        ),
        pytest.param(
            lambda package, files, folder: ["optimize", package, "--data", files / "data.parquet", "--variants", "fp17"],
            "variant 'fp17' is unknown; allowed: ", id="optimize: unknown variant",
        ),
        pytest.param(
            lambda package, files, folder: ["optimize", package, "--data", files / "data.parquet",
                                            "--gates", folder / "no.yaml"],
            "gates file", id="optimize: no gates file",
        ),
        pytest.param(
            lambda package, files, folder: ["optimize", package, "--data", files / "data.parquet",
                                            "--sign-key", files / "data.parquet"],
            "key", id="optimize: no key",
        ),
        pytest.param(
            lambda package, files, folder: ["optimize", package, "--data", files / "data.parquet", "--label-column", "nope"],
            "label column 'nope' is missing", id="optimize: missing label",
        ),
        pytest.param(
            lambda package, files, folder: ["package", files / "mlp.joblib", "--sample",
                                            _write(folder, pq.read_table(files / "sample.parquet").slice(0, 0))],
            "holds no rows", id="package: empty sample",
        ),
        pytest.param(
            lambda package, files, folder: ["package", files / "sample.parquet", "--sample", files / "sample.parquet"],
            "files ending in .parquet are not known", id="package: no model",
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


def test_the_package_itself_is_no_place_for_the_results(package: Path, files, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["optimize", str(package), "--data", str(files / "data.parquet"), "--out", str(package)])
    assert "is a model package itself; give another directory" in capsys.readouterr().err
    verify_package(package)


def test_a_place_that_cannot_be_written_is_one_line(
    package: Path, files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        run(["optimize", str(package), "--data", str(files / "data.parquet"), "--out", str(tmp_path / "file")])
    assert (
        capsys.readouterr().err == f"error: --out {tmp_path / 'file'}: cannot be written: File exists; give another directory\n"
    )


@pytest.mark.parametrize(
    ("given", "names"),
    [
        pytest.param("simplified,fp16,simplified", ["simplified", "fp16"], id="each once"),
        pytest.param("baseline,fp16", ["fp16"], id="the baseline is judged anyway"),
        pytest.param("baseline", [], id="the baseline alone"),
    ],
)
def test_variants_are_named(given: str, names: list[str]) -> None:
    assert asked_names(given, GatesSection(), "cpu") == names


def test_no_variant_named_is_no_question() -> None:
    with pytest.raises(OptimizationError, match="no variant is named"):
        asked_names(" , ", GatesSection(), "cpu")
