"""What each component shows in Kubeflow's UI, which renders one HTML page a task; and how much it hands on as parameters."""

import ast
import json
from typing import Any

import pytest
import yaml

from pipelines.launcher import REPOSITORY

LARGEST_ARGUMENT = 128 * 1024  # Linux's MAX_ARG_STRLEN: Kubeflow hands specifications on as arguments of processes
SHOWN = {"system.HTML", "system.Metrics", "system.ClassificationMetrics", "system.Markdown"}
EVIDENCE = {
    "validate_data": {"report": "HTML", "metrics": "Metrics"},
    "select_variant": {"report": "HTML", "metrics": "Metrics", "curves": "ClassificationMetrics"},
    "compare_champion": {"metrics": "Metrics", "summary": "Markdown"},
    "roll_out": {"report": "HTML", "metrics": "Metrics", "summary": "Markdown"},
    "settle_rollout": {"summary": "Markdown"},
    "check_drift": {"report": "HTML", "metrics": "Metrics", "summary": "Markdown"},
}
# The texts and lists that a component hands on as parameters, and what bounds each.
BOUNDED = {
    "build_variant": {"text_parameter"},
    "check_drift": {"text_parameter"},
    "close_retraining": {"text_parameter"},
    "package_models": {"list_parameter"},
    "settle_rollout": {"text_parameter"},
}
FIXED = {"materialize_features", "roll_out"}  # a time; one of two words
COMPONENTS = sorted(path.stem for path in (REPOSITORY / "components").glob("*.py") if path.stem not in ("__init__", "step"))
COMPILED = sorted((REPOSITORY / "pipelines" / "compiled").glob("*.yaml"))


@pytest.fixture(params=COMPONENTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=COMPILED, ids=lambda path: path.stem)
def pipeline(request: pytest.FixtureRequest) -> dict[str, Any]:
    return next(iter(yaml.safe_load_all(request.param.read_text())))


def test_component_shows_its_evidence_on_at_most_one_page(name):
    outputs = component_of(name).component_spec.outputs or {}
    shown = {output: spec.type.partition("@")[0] for output, spec in outputs.items() if spec.type.partition("@")[0] in SHOWN}

    assert shown == {output: f"system.{kind}" for output, kind in EVIDENCE.get(name, {}).items()}
    assert list(shown.values()).count("system.HTML") <= 1


def test_evidence_is_written_by_the_component_that_declares_it(name):
    source = (REPOSITORY / "components" / f"{name}.py").read_text()

    for output, kind in EVIDENCE.get(name, {}).items():
        written = {"Metrics": f"{output}.log_metric(", "ClassificationMetrics": f"{output}.log_roc_curve("}
        assert written.get(kind, f"{output}.path") in source


def test_text_and_list_parameters_are_bounded(name):
    tree = ast.parse((REPOSITORY / "components" / f"{name}.py").read_text())
    [function] = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    called = {node.func.id for node in ast.walk(function) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    outputs = component_of(name).component_spec.outputs or {}
    free = [output for output, spec in outputs.items() if spec.type in ("String", "List", "Dict")]

    assert called & {"text_parameter", "list_parameter"} == BOUNDED.get(name, set())
    assert not free or name in BOUNDED or name in FIXED


def test_specifications_fit_into_the_arguments_they_travel_in(pipeline):
    assert len(json.dumps(pipeline).encode()) < LARGEST_ARGUMENT


def test_artifacts_are_written_and_read_by_tasks_alone(pipeline):
    """An importer of an s3:// address downloads nothing in kfp.local, so data comes from the project's store instead."""
    assert all("importer" not in executor for executor in pipeline["deploymentSpec"]["executors"].values())


def test_loop_is_never_within_an_exit_handler(pipeline):
    """Kubeflow's backend fails there: kubeflow/pipelines#12390."""
    handled = [task for task in all_tasks(pipeline, "root") if task["componentRef"]["name"].startswith("comp-exit-handler")]

    assert pipeline["pipelineInfo"]["name"] == "tidegate-batch" or handled
    for handler in handled:
        inside = list(all_tasks(pipeline, handler["componentRef"]["name"]))
        assert inside
        assert not any("parameterIterator" in task or "artifactIterator" in task for task in inside)


def component_of(name: str) -> Any:
    return getattr(__import__(f"components.{name}", fromlist=[name]), name)


def all_tasks(pipeline: dict[str, Any], component: str) -> list[dict[str, Any]]:
    """Return the tasks of a component and of every component within it."""
    described = pipeline["root"] if component == "root" else pipeline["components"][component]
    found = []
    for task in described.get("dag", {}).get("tasks", {}).values():
        found += [task, *all_tasks(pipeline, task["componentRef"]["name"])]
    return found
