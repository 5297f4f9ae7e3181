"""`python -m pipelines`: what it refuses is one line on stderr, before anything is written."""

import json
import sys
from pathlib import Path

import pytest

from pipelines import __main__ as command_line
from pipelines.launcher import LocalLauncher, RunResult


@pytest.fixture
def project_file(tmp_path: Path, project_text: str) -> Path:
    file = tmp_path / "tidegate.yaml"
    file.write_text(project_text)
    return file


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pipelines", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        captured = capsys.readouterr()
        return int(ended.value.code), captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        pytest.param(
            ["run", "retrain", "--local"],
            1,
            "run: there is no pipeline 'retrain'; choose one of release, drift, batch",
            id="unknown-pipeline",
        ),
        pytest.param(["run", "release"], 1, "add --local to run on this machine", id="no-local"),
        pytest.param(
            ["run", "release", "--local", "--param", "clock"], 1, "--param 'clock': expected KEY=VALUE", id="no-value"
        ),
        pytest.param(
            ["run", "drift", "--local", "--param", "reason=x"],
            1,
            "--param reason: pipeline drift has no such parameter; it has project_file, project_digest, target, clock",
            id="unknown-parameter",
        ),
        pytest.param(["run", "batch", "--local", "--param", "end=x"], 1, "needs the parameter start", id="missing-parameter"),
        pytest.param(
            ["run", "release", "--local", "--project", "none.yaml"], 1, "none.yaml: No such file", id="no-project-file"
        ),
        pytest.param(["compile", "--image", "flights:latest"], 1, "must be pinned by digest", id="unpinned-image"),
        pytest.param(["run"], 2, "Missing argument 'name'; see 'python -m pipelines run --help'", id="no-name"),
        pytest.param(["launch"], 2, "No such command 'launch'", id="unknown-command"),
        pytest.param(["compile", "--imge", "x"], 2, "No such option: --imge", id="unknown-option"),
    ],
)
def test_refusal_is_one_line(invoke, project_file, tmp_path, arguments, status, message):
    if arguments[0] == "run" and "--project" not in arguments:
        arguments = [*arguments, "--project", project_file]

    found, stdout, stderr = invoke(*arguments)

    assert (found, stdout) == (status, "")
    assert stderr.startswith("error: ")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tidegate.yaml"]


def test_unwritable_workspace_is_one_line(invoke, project_file, tmp_path):
    (tmp_path / "file").write_text("")
    project_file.write_text(project_file.read_text() + "workspace: file/below\n")

    status, _, stderr = invoke("run", "release", "--local", "--project", project_file)

    assert status == 1
    [line] = [line for line in stderr.splitlines() if line]
    assert line == f"error: runs folder {tmp_path}/file/below/runs: cannot be written: Not a directory"


@pytest.mark.parametrize("succeeded", [pytest.param(True, id="succeeded"), pytest.param(False, id="failed")])
def test_outcome_of_a_run_is_told(invoke, project_file, tmp_path, monkeypatch, succeeded):
    given = {}

    def run(self: LocalLauncher, name: str, arguments: dict[str, str], **_: object) -> RunResult:
        given.update(arguments)
        return RunResult(succeeded, 1.23, tmp_path / "run.log", tmp_path / "artifacts", "train: no", ())

    monkeypatch.setattr(LocalLauncher, "run", run)
    monkeypatch.chdir(tmp_path)

    status, stdout, stderr = invoke(
        "run", "batch", "--local", "--project", "tidegate.yaml", "--param", "start=a=b", "--param", "end=c", "--json"
    )

    assert (given["project_file"], given["start"]) == (str(project_file), "a=b")
    if succeeded:
        assert (status, json.loads(stdout)["pipeline"]) == (0, "batch")
    else:
        assert (status, stdout) == (1, "")
        assert f"error: pipeline batch failed: train: no; the log is {tmp_path}/run.log" in stderr


def test_what_is_compiled_for_another_project_lies_in_its_workspace(invoke, project_file, tmp_path):
    status, stdout, _ = invoke("compile", "--project", project_file, "--json")

    folder = tmp_path / ".tidegate/compiled"
    assert status == 0
    assert json.loads(stdout) == [str(folder / f"{name}.yaml") for name in ("release", "drift", "batch")]
    assert all((folder / f"{name}.yaml").is_file() for name in ("release", "drift", "batch"))
