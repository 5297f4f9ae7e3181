"""The compiled pipelines: golden files, pinned images, caching off, typed interfaces."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.step import PLACEHOLDER_IMAGE
from pipelines.catalog import PIPELINES
from pipelines.compilation import compile_all
from tidegate.errors import PipelineError, ProjectError
from tidegate.project import load_project

PROJECT_FILE = Path("examples/flights/tidegate.yaml")
GOLDEN = Path("pipelines/compiled")
PINNED = f"registry.example/flights@sha256:{'ab' * 32}"
TYPES = {"STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", "LIST", "STRUCT"}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compiled")
    compile_all(project_file=PROJECT_FILE, out=out)
    return out


@pytest.fixture(params=PIPELINES)
def document(request: pytest.FixtureRequest, compiled: Path) -> dict[str, Any]:
    return pipeline_spec(compiled / f"{request.param}.yaml")


def test_golden_files_are_what_the_code_compiles_to(compiled):
    assert sorted(path.name for path in compiled.iterdir()) == sorted(path.name for path in GOLDEN.iterdir())
    stale = [path.name for path in sorted(compiled.iterdir()) if path.read_bytes() != (GOLDEN / path.name).read_bytes()]

    assert not stale, f"{', '.join(stale)}: run `make compile` and look at what changed"


def test_compiling_again_writes_the_same_bytes(compiled, tmp_path):
    compile_all(project_file=PROJECT_FILE, out=tmp_path)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in compiled.iterdir()
    }


def test_given_image_is_the_image_of_every_task(tmp_path):
    written = compile_all(project_file=PROJECT_FILE, image=PINNED, out=tmp_path)

    for path in written:
        executors = pipeline_spec(path)["deploymentSpec"]["executors"]
        assert {executor["container"]["image"] for executor in executors.values()} == {PINNED}
        assert PLACEHOLDER_IMAGE not in path.read_text()


@pytest.mark.parametrize(
    "image",
    [
        pytest.param("registry.example/flights", id="no-tag"),
        pytest.param("registry.example/flights:latest", id="tag"),
        pytest.param(f"flights@sha256:{'ab' * 31}", id="short-digest"),
        pytest.param(f"flights@sha256:{'AB' * 32}", id="capital-digest"),
        pytest.param(f"flights@sha256:{'ab' * 32}\nimage: evil", id="more-than-a-name"),
        pytest.param("", id="empty"),
    ],
)
def test_image_without_a_digest_is_refused(image, tmp_path):
    with pytest.raises(PipelineError, match="must be pinned by digest: NAME@sha256:"):
        compile_all(project_file=PROJECT_FILE, image=image, out=tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_project_file_that_is_not_valid_compiles_nothing(tmp_path):
    (tmp_path / "tidegate.yaml").write_text("schema_version: 1\n")

    with pytest.raises(ProjectError, match="name: required"):
        compile_all(project_file=tmp_path / "tidegate.yaml", out=tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_nothing_is_cached(document):
    cached = [name for name, task in tasks(document) if task.get("cachingOptions", {}).get("enableCache", False)]
    executed = [name for name, task in tasks(document) if task["componentRef"]["name"] in executed_components(document)]

    assert executed
    assert cached == []


def test_every_component_has_typed_inputs_and_outputs(document):
    for name in executed_components(document):
        component = document["components"][name]
        interface = [*component["inputDefinitions"].items(), *component.get("outputDefinitions", {}).items()]
        for group, declared in interface:
            for parameter, description in declared.items():
                known = description["parameterType"] in TYPES if group == "parameters" else typed_artifact(description)
                assert known, f"{name}: {parameter} has no type"


def test_every_component_but_a_step_of_pure_work_is_given_the_project_by_digest(document):
    for name, task in tasks(document):
        if task["componentRef"]["name"] not in executed_components(document) or name == "build-variant":
            continue
        assert {"project_file", "project_digest"} <= task["inputs"]["parameters"].keys(), name


def test_defaults_name_the_project_file_and_its_digest(document):
    defaults = document["root"]["inputDefinitions"]["parameters"]

    assert defaults["project_file"]["defaultValue"] == PROJECT_FILE.as_posix()
    assert defaults["project_digest"]["defaultValue"] == load_project(PROJECT_FILE).digest


def test_no_package_is_installed_when_a_task_runs(document):
    for executor in document["deploymentSpec"]["executors"].values():
        assert "pip install" not in str(executor)


def test_gates_are_tested_on_the_one_output_that_kfp_local_can_read(compiled):
    """kfp.local skips the branch of a condition on a named output, and says that the run succeeded."""
    for path in compiled.iterdir():
        for _, task in tasks(pipeline_spec(path)):
            condition = task.get("triggerPolicy", {}).get("condition")
            assert condition is None or "-Output']" in condition


def test_unwritable_folder_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(PipelineError, match="cannot be written"):
        compile_all(project_file=PROJECT_FILE, out=tmp_path / "file" / "compiled")


def test_half_written_file_never_replaces_a_whole_one(compiled, tmp_path, monkeypatch):
    shutil.copytree(compiled, tmp_path / "out")

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no space left")

    monkeypatch.setattr("pipelines.compilation.compiler.Compiler.compile", fails)
    with pytest.raises(RuntimeError):
        compile_all(project_file=PROJECT_FILE, out=tmp_path / "out")

    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {
        path.name: path.read_bytes() for path in compiled.iterdir()
    }


def pipeline_spec(file: Path) -> dict[str, Any]:
    """Return the pipeline of a compiled file, whose second document describes its tasks' pods."""
    return next(iter(yaml.safe_load_all(file.read_text())))


def tasks(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for component in (document["root"], *document["components"].values()):
        yield from component.get("dag", {}).get("tasks", {}).items()


def executed_components(document: dict[str, Any]) -> set[str]:
    return {name for name, component in document["components"].items() if "executorLabel" in component}


def typed_artifact(description: dict[str, Any]) -> bool:
    return description["artifactType"]["schemaTitle"].startswith("system.")
