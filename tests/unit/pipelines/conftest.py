"""Fixtures for the client of Kubeflow Pipelines: a test API server, and a compiled pipeline small enough to be quick."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from pipelines.kubeflow.authentication import Credentials, Nobody
from pipelines.kubeflow.client import KubeflowPipelines
from pipelines.kubeflow.submission import CompiledPipeline
from tests.kfp_api.api import KfpApi
from tests.kfp_api.server import serving
from tidegate.project import Project, load_project

IMAGE = f"registry.example.com/flights@sha256:{'1' * 64}"
SPECIFICATION = {
    "pipelineInfo": {"name": "tidegate-drift"},
    "root": {
        "dag": {"tasks": {"check-drift": {"componentRef": {"name": "comp-check-drift"}, "taskInfo": {"name": "check-drift"}}}},
        "inputDefinitions": {
            "parameters": {
                "clock": {"parameterType": "STRING", "defaultValue": "wall", "isOptional": True},
                "limit": {"parameterType": "NUMBER_INTEGER", "defaultValue": 3, "isOptional": True},
                "strict": {"parameterType": "BOOLEAN", "defaultValue": True, "isOptional": True},
                "names": {"parameterType": "LIST", "defaultValue": [], "isOptional": True},
                "start": {"parameterType": "STRING"},
            }
        },
    },
    "components": {"comp-check-drift": {"executorLabel": "exec-check-drift"}},
    "deploymentSpec": {"executors": {"exec-check-drift": {"container": {"image": IMAGE}}}},
    "schemaVersion": "2.1.0",
    "sdkVersion": "kfp-2.17.0",
}
GIVEN = {"start": "2013-06-01T00:00:00Z"}


@pytest.fixture(scope="session")
def flights() -> Project:
    return load_project(Path(__file__).parents[3] / "examples/flights/tidegate.yaml", target="kserve")


@pytest.fixture
def compiled(flights: Project) -> Callable[..., CompiledPipeline]:
    """A drift pipeline of the flights project, not really compiled; `change` makes it another content."""

    def make(change: str = "", image: str = IMAGE) -> CompiledPipeline:
        content = yaml.safe_dump(SPECIFICATION | ({"defaultPipelineRoot": change} if change else {}))
        return CompiledPipeline(project=flights, pipeline="drift", content=content.replace(IMAGE, image).encode(), image=image)

    return make


@pytest.fixture
def connect() -> Iterator[Callable[..., KubeflowPipelines]]:
    """A client of a server that is started for it; it never sleeps longer than a moment."""
    with ExitStack() as stack:

        def connected(api: KfpApi, credentials: Credentials | None = None, **settings: float) -> KubeflowPipelines:
            url = stack.enter_context(serving(api))
            return KubeflowPipelines(
                url,
                credentials or Nobody(),
                **{"timeout_seconds": 5.0, "patience_seconds": 3.0} | settings,
                sleep=lambda _: None,
            )

        yield connected
