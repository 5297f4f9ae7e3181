"""`tidegate optimize` that is stopped, by Ctrl-C or kill -9: no process is left, and the same command goes on."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.cli.main import run

NAMES = ("graph-optimized", "fp16", "int8-dynamic")


@pytest.fixture(scope="module")
def package(files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "package"
    arguments = ["package", files / "mlp.joblib", "--sample", files / "sample.parquet", "--out", out, "--label-column", "label"]
    with pytest.raises(SystemExit) as ended:
        run([str(argument) for argument in (*arguments, "--json")])
    assert ended.value.code == 0
    return out


@pytest.fixture
def command(package: Path, files, gates: Path, tmp_path: Path) -> list[str]:
    program = "from tidegate.cli.main import run; run()"
    arguments = [
        package,
        "--data",
        files / "data.parquet",
        "--out",
        tmp_path / "out",
        "--gates",
        gates,
        "--variants",
        ",".join(NAMES),
    ]
    return [sys.executable, "-W", "ignore", "-c", program, "optimize", *map(str, arguments)]


STEPS = {
    "building": lambda state: any(state.glob("builds/*")),
    "built": lambda state: len(list(state.glob("builds/*/outcome.json"))) == len(NAMES),
    "judging": lambda state: any(state.glob("judgements/*.json")),
    "timing": lambda state: len(list(state.glob("judgements/*.json"))) == len(NAMES) + 1,
}


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_search_goes_on(command: list[str], tmp_path: Path, step: str) -> None:
    state = tmp_path / "out" / ".search"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as search:
        assert _comes_true(lambda: STEPS[step](state))
        workers = _descendants(search.pid)
        search.kill()

    assert workers
    assert _comes_true(lambda: not any(_runs(pid) for pid in workers)), "no worker outlives the search"
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    selection = json.loads(done.stdout)
    assert [row["status"] for row in selection["rows"]] == ["passed"] * (len(NAMES) + 1)
    assert not state.exists()


def test_what_was_done_is_not_done_again(command: list[str], tmp_path: Path) -> None:
    state = tmp_path / "out" / ".search"
    written = []
    for step in ("built", "timing"):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as search:
            assert _comes_true(lambda step=step: STEPS[step](state))
            search.kill()
        written.append(_written(state))

    assert written[0].items() <= written[1].items(), "the builds are those of the first search"


def test_ctrl_c_in_a_terminal_is_one_line_and_leaves_no_process(command: list[str], tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["COLUMNS"] = "100"
        os.execv(command[0], command)  # noqa: S606 - what a terminal does
    assert _comes_true(lambda: STEPS["judging"](tmp_path / "out" / ".search"))
    workers = _descendants(pid)

    os.write(terminal, b"\x03")
    said = _read_all(terminal)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert "interrupted; the same command goes on from here" in said
    assert "Judging" in said, "the bars are drawn in a terminal"
    assert "Traceback" not in said
    assert _comes_true(lambda: not any(_runs(worker) for worker in workers))


def test_sigterm_leaves_no_process(command: list[str], tmp_path: Path) -> None:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as search:
        assert _comes_true(lambda: STEPS["judging"](tmp_path / "out" / ".search"))
        workers = _descendants(search.pid)
        search.send_signal(signal.SIGTERM)

    assert workers
    assert _comes_true(lambda: not any(_runs(pid) for pid in workers))


def _written(state: Path) -> dict[str, int]:
    return {str(path): path.stat().st_ino for path in state.glob("builds/*/outcome.json")} | {
        str(path): path.stat().st_ino for path in state.glob("judgements/*.json")
    }


def _descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(grandchild for child in children for grandchild in _descendants(child))]


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _read_all(terminal: int) -> str:
    said = b""
    try:
        while part := os.read(terminal, 65536):
            said += part
    except OSError:  # the terminal's end, as Linux says it
        pass
    return said.decode(errors="replace")


def _comes_true(condition: Callable[[], bool], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
