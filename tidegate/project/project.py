"""The project file: one typed, strict `tidegate.yaml` that describes a model from its features to its monitoring.

    project = load_project("examples/flights/tidegate.yaml")
    project.name                      # 'flights-late'
    project.paths.workspace           # absolute; everything Tidegate writes on one machine lies below it

Relative paths in the file are relative to the file. A mistake is one clear line that names the field, the value and what
is allowed. `tidegate project schema` prints the JSON Schema for editors.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

from pydantic import Field, PrivateAttr, model_validator

from tidegate.project.cluster import ClusterSection
from tidegate.project.gates import GatesSection, ProjectGates
from tidegate.project.misfit import misfit
from tidegate.project.reading import as_section, read_bytes, read_fields, refusal
from tidegate.project.sections import (
    FeaturesSection,
    LabelSection,
    MonitoringSection,
    RolloutSection,
    TrainingSection,
)
from tidegate.project.serving import ServingSection
from tidegate.project.types import Name, Section, StoreAddress, Text

_WHAT = "project file"
TargetKind = Literal["local", "kserve"]


@dataclass(frozen=True, slots=True)
class ProjectPaths:
    """The project's places on this machine, absolute."""

    root: Path
    workspace: Path
    repository: Path
    entity_rows: Path


class Project(Section):
    """A whole project file."""

    schema_version: Literal[1]
    name: Name = Field(description="Names the model, its InferenceService and its pipelines.")
    description: str = ""
    task: Literal["binary-classification"]
    workspace: Text = Field(default=".tidegate", description="Folder for everything Tidegate writes on one machine.")
    store: StoreAddress | None = Field(
        default=None, description="Object store, a folder or s3://…; null means WORKSPACE/store."
    )
    features: FeaturesSection
    label: LabelSection
    training: TrainingSection
    gates: ProjectGates
    serving: ServingSection = ServingSection()
    rollout: RolloutSection = RolloutSection()
    monitoring: MonitoringSection = MonitoringSection()
    cluster: ClusterSection | None = Field(default=None, description="Where it runs as `--target kserve`.")

    @model_validator(mode="after")
    def _replacing_needs_standard_mode(self) -> Self:
        if self.rollout.strategy == "replace" and self.cluster is not None and self.cluster.mode == "Knative":
            raise ValueError(
                "rollout.strategy replace needs cluster.mode Standard; Knative starts the new revision beside the old"
            )
        return self

    @model_validator(mode="after")
    def _validation_is_about_request_inputs(self) -> Self:
        known = self.features.request_inputs
        for name in self.serving.validation.inputs:
            if name not in known:
                allowed = ", ".join(known)
                raise misfit("serving.validation.inputs", name, f"is none of features.request_inputs ({allowed})")
        return self

    _file: Path = PrivateAttr(default=Path("tidegate.yaml"))
    _digest: str = PrivateAttr(default="")
    _target: TargetKind = PrivateAttr(default="local")

    @property
    def file(self) -> Path:
        """Where the project file lies, absolute."""
        return self._file

    @property
    def digest(self) -> str:
        """`sha256:…` of the project file's bytes."""
        return self._digest

    @property
    def target(self) -> TargetKind:
        """Where the project runs now."""
        return self._target

    @property
    def on_cluster(self) -> ClusterSection:
        """The cluster section; raises ProjectError if there is none."""
        if self.cluster is None:
            raise refusal(_WHAT, self._file, "cluster: required for target kserve, but not given; describe the cluster")
        return self.cluster

    @property
    def serves_on_gpu(self) -> bool:
        """Whether the model server has an accelerator where the project runs now."""
        return self._target == "kserve" and self.on_cluster.serving.accelerator is not None

    @property
    def paths(self) -> ProjectPaths:
        """Every path of the file, resolved against the folder it lies in.

        On a cluster, what lies below the workspace on one machine lies below the workspace of the pod.
        """
        root = self._file.parent
        workspace = (root / self.workspace).resolve()
        entity_rows = (root / self.features.entity_rows).resolve()
        repository = (root / self.features.repository).resolve()
        if self._target == "kserve":
            scratch = Path(self.on_cluster.workspace)
            if entity_rows.is_relative_to(workspace):
                entity_rows = scratch / entity_rows.relative_to(workspace)
            workspace = scratch
        return ProjectPaths(root=root, workspace=workspace, repository=repository, entity_rows=entity_rows)

    @property
    def store_uri(self) -> str:
        """The object store's address."""
        if self._target == "kserve":
            return self.on_cluster.store
        if self.store is None:
            return f"file://{self.paths.workspace / 'store'}"
        if "://" in self.store:
            return self.store
        return f"file://{(self._file.parent / self.store).resolve()}"


def load_project(path: str | Path, *, digest: str | None = None, target: str = "local") -> Project:
    """Read and check the project file at `path`.

    Args:
        path: The file, usually `tidegate.yaml`.
        digest: If given, the `sha256:…` that the file's bytes must have.
        target: Where the project is to run: `local`, or `kserve`, for which the file must describe a cluster.

    Raises:
        ProjectError: The file is missing, is not YAML, has another digest, or holds a mistake; the message names the
            field, the value and what is allowed; or there is no such target.
    """
    if target not in get_args(TargetKind):
        choices = ", ".join(get_args(TargetKind))
        raise refusal(_WHAT, path, f"target {target!r}: there is none of that name; choose one of {choices}")
    file, raw = read_bytes(_WHAT, path)
    found = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    if digest is not None and digest != found:
        raise refusal(_WHAT, path, f"its digest is {found}, but {digest} was asked for; use the same file")
    project = as_section(_WHAT, path, read_fields(_WHAT, path, raw), Project)
    project._file = file
    project._digest = found
    project._target = cast(TargetKind, target)
    if target == "kserve":
        project.on_cluster  # noqa: B018 - refuses a file without one
    return project


def load_gates(path: str | Path) -> GatesSection:
    """Read gates from a project file, or from a YAML file that holds only the fields of its `gates`, any of them absent.

    Raises:
        ProjectError: As `load_project` does.
    """
    _, raw = read_bytes("gates file", path)
    fields = read_fields("gates file", path, raw)
    if {"schema_version", "gates"} & fields.keys():
        return as_section(_WHAT, path, fields, Project).gates
    return as_section("gates file", path, fields, GatesSection)


def project_schema() -> dict[str, Any]:
    """Return the project file's JSON Schema, for editors."""
    schema = Project.model_json_schema()
    schema["title"] = "Tidegate project file"
    return schema
