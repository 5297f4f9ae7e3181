"""From the repository to a run in Kubeflow Pipelines: compile, upload what is new, start.

The pipeline is uploaded as `<project>-<pipeline>`; every content is a version of its own, named by its digest, so the same
content is never uploaded twice, and a run tells exactly which code and image it ran.
"""

import hashlib
import json
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from pipelines.kubeflow.api_errors import ApiRefusal
from pipelines.kubeflow.client import API, KubeflowPipelines, where
from tidegate.clock import open_clock
from tidegate.errors import PipelineError, TidegateError
from tidegate.project import Project, load_project

_DIGEST_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class CompiledPipeline:
    """One pipeline's IR for one project file and image."""

    project: Project
    pipeline: str
    content: bytes
    image: str

    @property
    def name(self) -> str:
        """Its name in Kubeflow Pipelines."""
        return f"{self.project.name}-{self.pipeline}"

    @property
    def version(self) -> str:
        """The name of its version: a Kubernetes name, unique in a namespace as Kubeflow's Kubernetes store asks."""
        return f"{self.name}-{hashlib.sha256(self.content).hexdigest()[:_DIGEST_CHARACTERS]}"

    def parameters(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Return parameters in the types that the pipeline declares.

        Raises:
            PipelineError: There is no such parameter, one is missing, a value is not of its type, or is no event time.
        """
        declared = self._ir["root"].get("inputDefinitions", {}).get("parameters", {})
        for name in given:
            if name not in declared:
                raise PipelineError(
                    f"--param {name}: pipeline {self.pipeline} has no such parameter; it has {', '.join(declared)}"
                )
        for name, definition in declared.items():
            if name not in given and not definition.get("isOptional") and "defaultValue" not in definition:
                raise PipelineError(f"pipeline {self.pipeline} needs the parameter {name}; give it by --param {name}=VALUE")
        if "clock" in given:
            _check_clock(given["clock"])
        return {name: _typed(name, text, declared[name]["parameterType"]) for name, text in given.items()}

    @property
    def _ir(self) -> dict[str, Any]:
        document: dict[str, Any] = next(yaml.load_all(self.content, Loader=yaml.CSafeLoader))  # 7 times as fast as in Python
        return document


@dataclass(frozen=True, slots=True)
class Uploaded:
    """Where a compiled pipeline is in Kubeflow Pipelines; `fresh` if this upload put it there."""

    pipeline_id: str
    version_id: str
    version: str
    fresh: bool

    @property
    def reference(self) -> dict[str, str]:
        """The API's reference to the version."""
        return {"pipeline_id": self.pipeline_id, "pipeline_version_id": self.version_id}


@dataclass(frozen=True, slots=True)
class Submitted:
    """A run that was started."""

    run_id: str
    name: str
    uploaded: Uploaded
    link: str


def compiled_pipeline(*, pipeline: str, project_file: Path, image: str) -> CompiledPipeline:
    """Compile one pipeline for a project that runs on a cluster.

    Raises:
        PipelineError: There is no such pipeline, or the image is not pinned by digest.
        ProjectError: The project file is not valid, or describes no cluster.
    """
    from pipelines.catalog import PIPELINES
    from pipelines.compilation import compile_all

    if pipeline not in PIPELINES:
        raise PipelineError(f"there is no pipeline {pipeline!r}; choose one of {', '.join(PIPELINES)}")
    project_file = _in_image(project_file)
    project = load_project(project_file, target="kserve")
    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        compile_all(project_file=project_file, image=image, out=Path(folder))
        content = (Path(folder) / f"{pipeline}.yaml").read_bytes()
    return CompiledPipeline(project=project, pipeline=pipeline, content=content, image=image)


class Submitter:
    """Uploads pipelines and starts runs, in one namespace."""

    def __init__(self, api: KubeflowPipelines, *, namespace: str | None, ui: str | None = None) -> None:
        """Work in `namespace` of a multi-user Kubeflow, or in a single-user one, which has none.

        Args:
            api: The client.
            namespace: The profile's namespace; ignored by a single-user Kubeflow Pipelines.
            ui: Address of the UI for links, if it is not the API's.

        Raises:
            PipelineError: Kubeflow Pipelines is multi-user, and no namespace is given; or it cannot be asked.
        """
        self.api = api
        self.ui = (ui or api.host).rstrip("/")
        multi_user = _is_multi_user(api)
        if multi_user and not namespace:
            raise PipelineError(f"{api.host} is a multi-user Kubeflow: give the namespace of your profile, --namespace NAME")
        self.namespace = namespace if multi_user else None

    def upload(self, compiled: CompiledPipeline) -> Uploaded:
        """Upload a compiled pipeline as a version named by its digest, unless it is there already."""
        pipeline, _ = self.api.ensure(
            lambda: self._first(f"{API}/pipelines", "pipelines", compiled.name),
            lambda: self.api.create(
                f"{API}/pipelines",
                {
                    "display_name": compiled.name,
                    "description": f"The {compiled.pipeline} pipeline of {compiled.project.name}, made by Tidegate.",
                    **self.scope(),
                },
            ),
        )
        pipeline_id = pipeline["pipeline_id"]
        version, fresh = self.api.ensure(
            lambda: self._first(f"{API}/pipelines/{pipeline_id}/versions", "pipeline_versions", compiled.version, scoped=False),
            lambda: self.api.upload(
                f"{API}/pipelines/upload_version",
                compiled.content,
                f"{compiled.version}.yaml",
                name=compiled.version,
                pipelineid=pipeline_id,
                description=f"image {compiled.image}",
            ),
        )
        return Uploaded(
            pipeline_id=pipeline_id, version_id=version["pipeline_version_id"], version=compiled.version, fresh=fresh
        )

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, made if it is missing."""
        experiment, _ = self.api.ensure(
            lambda: self._first(f"{API}/experiments", "experiments", name),
            lambda: self.api.create(f"{API}/experiments", {"display_name": name, **self.scope()}),
        )
        return str(experiment["experiment_id"])

    def start(self, compiled: CompiledPipeline, parameters: Mapping[str, str], *, experiment: str | None = None) -> Submitted:
        """Upload a compiled pipeline if it is new, and start one run of it.

        Args:
            compiled: The pipeline.
            parameters: Its parameters, as text.
            experiment: Name of the experiment; the project's name if not given.

        Raises:
            PipelineError: A parameter is wrong, or Kubeflow Pipelines refused or could not be reached.
        """
        typed = compiled.parameters(parameters)
        uploaded = self.upload(compiled)
        experiment_id = self.experiment(experiment or compiled.project.name)
        name = f"{compiled.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S} {secrets.token_hex(3)}"
        run, _ = self.api.ensure(
            lambda: self._first(f"{API}/runs", "runs", name),
            lambda: self.api.create(
                f"{API}/runs",
                {
                    "display_name": name,
                    "experiment_id": experiment_id,
                    "pipeline_version_reference": uploaded.reference,
                    "runtime_config": {"parameters": typed},
                    "service_account": compiled.project.on_cluster.steps.service_account,
                },
            ),
        )
        return Submitted(run_id=run["run_id"], name=name, uploaded=uploaded, link=self.run_page(run["run_id"]))

    def run_page(self, run_id: str) -> str:
        """Return the address of a run's page in the UI."""
        return run_page(self.ui, run_id)

    def scope(self) -> dict[str, str]:
        """Return what limits a list to the namespace, where there are namespaces."""
        return {"namespace": self.namespace} if self.namespace else {}

    def _first(self, path: str, items: str, name: str, *, scoped: bool = True) -> dict[str, Any] | None:
        found = self.api.pages(path, items, filter=where("display_name", name), **(self.scope() if scoped else {}))
        return next((item for item in found if item.get("display_name") == name), None)


def _in_image(project_file: Path) -> Path:
    """Return the project file's path from the repository's root, which is also the image's working directory."""
    if not project_file.is_absolute():
        return project_file
    if not project_file.is_relative_to(Path.cwd()):
        raise PipelineError(f"project file {project_file}: is not below {Path.cwd()}, so the image does not hold it there")
    return project_file.relative_to(Path.cwd())


def _is_multi_user(api: KubeflowPipelines) -> bool:
    try:
        return bool(api.get(f"{API}/healthz").get("multi_user"))
    except ApiRefusal as refusal:
        if refusal.status != 404:
            raise
        raise PipelineError(
            f"{api.host}: has no API of Kubeflow Pipelines 2; behind a Kubeflow gateway, its address ends in /pipeline"
        ) from refusal


def run_page(ui: str, run_id: str) -> str:
    """Return the address of a run's page in the UI at `ui`."""
    return f"{ui.rstrip('/')}/#/runs/details/{run_id}"


def _check_clock(text: str) -> None:
    if text.startswith("replay:"):
        raise PipelineError(f"--param clock={text!r}: is a file of one machine; on a cluster use 'wall' or 'at:MOMENT'")
    try:
        open_clock(text)
    except TidegateError as error:
        raise PipelineError(f"--param {error}") from error


def _typed(name: str, text: str, kind: str) -> Any:
    wanted: dict[str, type | tuple[type, ...]] = {
        "NUMBER_INTEGER": int,
        "NUMBER_DOUBLE": (int, float),
        "BOOLEAN": bool,
        "LIST": list,
        "STRUCT": dict,
    }
    if kind not in wanted:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, wanted[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
        raise PipelineError(f"--param {name}={text!r}: expected {kind.lower()} as JSON")
    return value
