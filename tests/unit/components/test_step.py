"""A step refuses an image of another version of Tidegate before it does anything else."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tidegate
from components.step import step
from pipelines.launcher import REPOSITORY
from tidegate import compiled
from tidegate.compiled import require_version
from tidegate.errors import PipelineError


def test_step_of_this_version_runs():
    require_version(tidegate.__version__)


def test_step_of_another_version_is_refused_in_one_line():
    with pytest.raises(PipelineError) as caught:
        require_version("9.9.9")

    assert str(caught.value) == (
        f"the pipeline was compiled by tidegate 9.9.9, but this image holds tidegate {tidegate.__version__}; "
        "compile it again by the image's version, or build the image anew"
    )


def test_every_compiled_step_checks_the_version_first():
    for file in sorted((REPOSITORY / "pipelines" / "compiled").glob("*.yaml")):
        pipeline = next(iter(yaml.safe_load_all(file.read_text())))
        for executor in pipeline["deploymentSpec"]["executors"].values():
            source = executor["container"]["command"][-1]
            first = [line for line in source.splitlines() if line][:2]
            assert first == [
                "from tidegate.compiled import require_version",
                f"require_version('{tidegate.__version__}')",
            ]


@pytest.mark.parametrize(
    ("held", "refused"),
    [pytest.param(tidegate.__version__, False, id="same"), pytest.param("0.0.9", True, id="another")],
)
def test_source_that_travels_checks_the_image_that_it_meets(monkeypatch, held, refused):
    def work(word: str) -> str:
        return word

    component = step(work)
    check, _, _ = component.component_spec.implementation.container.command[-1].partition("import kfp")
    monkeypatch.setattr(compiled, "__version__", held)

    if refused:
        with pytest.raises(PipelineError, match=re.escape(f"but this image holds tidegate {held}")):
            exec(check)  # noqa: S102 - as kfp's executor does
    else:
        exec(check)  # noqa: S102


@pytest.mark.parametrize("compiled_by", [pytest.param(None, id="same"), pytest.param("9.9.9", id="another")])
def test_kfp_s_executor_runs_the_check_before_the_step(tmp_path, compiled_by):
    def work(folder: str) -> str:
        import pathlib

        pathlib.Path(folder, "worked").touch()
        return "done"

    container = step(work).component_spec.implementation.container
    source = container.command[-1].replace(f"'{tidegate.__version__}'", repr(compiled_by or tidegate.__version__), 1)
    inputs = {"parameterValues": {"folder": str(tmp_path)}}
    outputs = {"parameters": {"Output": {"outputFile": str(tmp_path / "out")}}, "outputFile": str(tmp_path / "result.json")}
    executor_input = json.dumps({"inputs": inputs, "outputs": outputs})
    arguments = [*container.command[:-1], source, "--executor_input", executor_input, "--function_to_execute", "work"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    done = subprocess.run(
        arguments, cwd=REPOSITORY, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode == 0) is (compiled_by is None), done.stderr
    assert (tmp_path / "worked").exists() is (compiled_by is None)
    if compiled_by is not None:
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(
            "tidegate.errors.PipelineError: the pipeline was compiled by tidegate 9.9.9, but this image holds"
        )
