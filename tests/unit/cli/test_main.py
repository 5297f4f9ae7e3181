import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tidegate
from tidegate.cli.main import _COMMANDS, run

HEAVY = {
    "boto3", "duckdb", "evidently", "feast", "granian", "grpc", "kfp", "matplotlib", "numpy", "onnx", "onnxruntime",
    "pandas", "pyarrow", "pydantic", "sklearn", "skl2onnx",
}  # fmt: skip
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `tidegate …`; gives status, stdout and stderr."""

    def ran(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(list(arguments))
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return ran


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["nonsense"], "No such command 'nonsense'; see 'tidegate --help'", id="unknown command"),
        pytest.param(["models", "nonsense"], "No such command 'nonsense'; see 'tidegate models --help'", id="subcommand"),
        pytest.param(["--nonsense"], "No such option: --nonsense; see 'tidegate --help'", id="unknown option"),
        pytest.param(
            ["project", "check", "a", "b"],
            "Got unexpected extra argument(s) (b); see 'tidegate project check --help'",
            id="too many arguments",
        ),
    ],
)
def test_usage_errors_are_one_line(command: Run, arguments: list[str], message: str) -> None:
    assert command(*arguments) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]], ids=["nothing", "--help", "-h"])
def test_help_lists_every_command(command: Run, arguments: list[str]) -> None:
    status, out, err = command(*arguments)

    assert (status, err) == (0 if arguments else 2, "")
    for name in _COMMANDS:
        assert f" {name} " in out


def test_version(command: Run) -> None:
    assert command("--version") == (0, f"tidegate {tidegate.__version__}\n", "")


def test_expected_failures_are_one_line(command: Run, tmp_path: Path) -> None:
    (tmp_path / "tidegate.yaml").write_text("name: [\n  a:\n b")

    status, out, err = command("project", "check", str(tmp_path / "tidegate.yaml"))

    assert (status, out) == (1, "")
    assert err.startswith("error: project file ")
    assert err.count("\n") == 1


def test_a_missing_extra_is_named(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "granian", None)
    monkeypatch.setitem(_COMMANDS, "serve", ("granian", "line", "cpu,serving"))
    assert command("serve") == (
        1,
        "",
        "error: tidegate serve needs the module granian, which is not installed; pip install 'tidegate[cpu,serving]'\n",
    )


@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_exit_status_of_a_command_is_passed_on(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int
) -> None:
    (tmp_path / "a_gate.py").write_text("import typer\ndef command(status: int): raise typer.Exit(status)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(_COMMANDS, "gate", ("a_gate", "Exits as it is told.", ""))

    assert command("gate", str(status)) == (status, "", "")


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "typer.Abort"])
def test_an_interrupted_command_ends_quietly(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raised: str
) -> None:
    (tmp_path / "an_interrupt.py").write_text(f"import typer\ndef command(x: int): raise {raised}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "an_interrupt", raising=False)
    monkeypatch.setitem(_COMMANDS, "gate", ("an_interrupt", "Is interrupted.", ""))

    assert command("gate", "1") == (130, "", "")


def test_project_check(command: Run, tmp_path: Path, project_text: str) -> None:
    (tmp_path / "tidegate.yaml").write_text(project_text)

    status, out, err = command("project", "check", str(tmp_path / "tidegate.yaml"), "--json")

    assert (status, err) == (0, "")
    assert json.loads(out)["name"] == "flights-late"
    assert command("project", "check", str(tmp_path / "tidegate.yaml"))[1].startswith("valid  flights-late")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models", "nonsense"]], ids=" ".join)
def test_start_up_is_light(arguments: list[str]) -> None:
    # A package is read and written with numpy and pyarrow; typer itself checks options with pydantic.
    heavy = HEAVY - {"numpy", "pyarrow", "pydantic"} if arguments[0] == "models" else HEAVY

    loaded = _modules_after(f"from tidegate.cli.main import run\ntry: run({arguments!r})\nexcept SystemExit: pass")

    assert not heavy & loaded


@pytest.mark.parametrize(
    "package", ["cli", "deployment", "features", "monitoring", "optimization", "packaging", "registry", "reporting", "rollout",
                "serving", "storage", "training"],
)  # fmt: skip
def test_rooms_import_nothing_heavy(package: str) -> None:
    assert not HEAVY & _modules_after(f"import tidegate.{package}")


def _modules_after(script: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", f"{script}\nimport sys; sys.stderr.write(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(ended.stderr.split("\n")[-1].split())


def test_an_event_time_that_is_none_starts_no_rollout(command: Run, tmp_path: Path, project_text: str) -> None:
    (tmp_path / "tidegate.yaml").write_text(project_text)

    status, _, err = command("rollout", "start", "1", "--project", str(tmp_path / "tidegate.yaml"), "--clock", "yesterday")

    assert (status, err) == (1, "error: clock: 'yesterday' is not a clock; use 'wall', 'at:MOMENT' or 'replay:PATH'\n")
    assert not (tmp_path / ".tidegate").exists()


def test_an_event_time_that_is_none_is_not_rendered(command: Run, tmp_path: Path, project_text: str) -> None:
    cluster = "cluster:\n  store: s3://models/flights\n"
    (tmp_path / "tidegate.yaml").write_text(f"{project_text}\n{cluster}")

    status, out, err = command("service", "render", "1", "--project", str(tmp_path / "tidegate.yaml"), "--clock", "at:noon")

    assert (status, out) == (1, "")
    assert err.startswith("error: clock: 'noon' is not a moment; use ISO 8601")
