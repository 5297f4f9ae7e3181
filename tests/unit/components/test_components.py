"""The components: one a file, typed, thin, and light to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from kfp import dsl

from pipelines.launcher import REPOSITORY

FILES = sorted(path for path in (REPOSITORY / "components").glob("*.py") if path.stem not in ("__init__", "step"))
HEAVY = ("feast", "sklearn", "evidently", "onnxruntime", "duckdb", "pandas", "pyarrow")


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_file_holds_the_one_component_of_its_name(file):
    module = ast.parse(file.read_text())

    assert ast.get_docstring(module).startswith("Component: ")
    assert [node.name for node in module.body if isinstance(node, ast.FunctionDef)] == [file.stem]


def test_component_returns_one_value_that_a_condition_can_test(file):
    """Other outputs have names of their own; kfp.local tests conditions on the unnamed one only."""
    component = getattr(__import__(f"components.{file.stem}", fromlist=[file.stem]), file.stem)
    outputs = component.component_spec.outputs or {}

    assert isinstance(component, dsl.base_component.BaseComponent)
    assert [name for name in outputs if name == "Output"] == ([] if returns_nothing(file) else ["Output"])


def returns_nothing(file: Path) -> bool:
    [function] = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    return isinstance(function.returns, ast.Constant) and function.returns.value is None


def test_component_imports_only_the_library_and_the_standard_library_inside(file):
    """kfp copies the function's body alone into the task."""
    [function] = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    imported = {node.module.partition(".")[0] for node in ast.walk(function) if isinstance(node, ast.ImportFrom)}
    imported |= {
        alias.name.partition(".")[0] for node in ast.walk(function) if isinstance(node, ast.Import) for alias in node.names
    }

    assert imported - set(sys.stdlib_module_names) <= {"tidegate"}
    assert "tidegate" in imported


def test_step_without_a_project_file_works_on_artifacts_alone(file):
    component = getattr(__import__(f"components.{file.stem}", fromlist=[file.stem]), file.stem)
    inputs = component.component_spec.inputs

    assert ({"project_file", "project_digest"} <= inputs.keys()) is (file.stem != "build_variant")


def test_pipelines_are_light_to_import():
    code = f"import sys, pipelines.catalog; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "[]", done.stderr


def test_library_knows_nothing_of_what_stands_on_it():
    for path in sorted((REPOSITORY / "tidegate").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            above = {name.partition(".")[0] for name in names} & {"kfp", "components", "pipelines", "examples"}
            assert not above, f"{path.relative_to(REPOSITORY)} imports {above}"
