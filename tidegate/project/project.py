"""The project file: one typed, strict `tidegate.yaml` that describes a model from its features to its monitoring.

    project = load_project("examples/flights/tidegate.yaml")
    project.name                      # 'flights-late'
    project.paths.workspace           # absolute; everything Tidegate writes on one machine lies below it

Relative paths in the file are relative to the file. A mistake is one clear line that names the field, the value and what
is allowed. `tidegate project schema` prints the JSON Schema for editors.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from tidegate.errors import ProjectError
from tidegate.project.cluster import ClusterSection
from tidegate.project.gates import GatesSection
from tidegate.project.patterns import IN_WORDS
from tidegate.project.sections import (
    FeaturesSection,
    LabelSection,
    MonitoringSection,
    RolloutSection,
    ServingSection,
    TrainingSection,
)
from tidegate.project.types import Name, Section, StoreAddress, Text
from tidegate.strict_yaml import read_strict_yaml

_SHOWN_CHARACTERS = 80
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]*@")
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
    gates: GatesSection
    serving: ServingSection = ServingSection()
    rollout: RolloutSection = RolloutSection()
    monitoring: MonitoringSection = MonitoringSection()
    cluster: ClusterSection | None = Field(default=None, description="Where it runs as `--target kserve`.")

    @model_validator(mode="after")
    def _accuracy_fits_the_task(self) -> Self:
        gate = self.gates.accuracy
        if gate.metric in ("rmse", "mae"):
            raise ValueError(f"gates.accuracy.metric {gate.metric} judges a regression; use roc_auc, accuracy or log_loss")
        if gate.bound is None:
            needed = "maximum" if gate.metric == "log_loss" else "minimum"
            raise ValueError(f"gates.accuracy.{needed}: required for {gate.metric}, but not given")
        return self

    @model_validator(mode="after")
    def _replacing_needs_standard_mode(self) -> Self:
        if self.rollout.strategy == "replace" and self.cluster is not None and self.cluster.mode == "Knative":
            raise ValueError(
                "rollout.strategy replace needs cluster.mode Standard; Knative starts the new revision beside the old"
            )
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
            raise _refusal(self._file, "cluster: required for target kserve, but not given; describe the cluster")
        return self.cluster

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
        raise _refusal(path, f"target {target!r}: there is none of that name; choose one of {', '.join(get_args(TargetKind))}")
    try:
        file = Path(path).resolve()
        raw = file.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        raise _refusal(path, getattr(error, "strerror", None) or error) from error
    found = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    if digest is not None and digest != found:
        raise _refusal(path, f"its digest is {found}, but {digest} was asked for; use the same file")
    try:
        document = read_strict_yaml(raw)
    except ValueError as error:
        raise _refusal(path, f"not YAML: {error}") from error
    if not isinstance(document, dict):
        raise _refusal(path, f"expected fields at the top, found {type(document).__name__}")
    try:
        # Through JSON, since pydantic's strictness takes a list for a tuple only there.
        project = Project.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        raise _refusal(path, _explain(error)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(path, error) from error
    project._file = file
    project._digest = found
    project._target = cast(TargetKind, target)
    if target == "kserve":
        project.on_cluster  # noqa: B018 - refuses a file without one
    return project


def project_schema() -> dict[str, Any]:
    """Return the project file's JSON Schema, for editors."""
    schema = Project.model_json_schema()
    schema["title"] = "Tidegate project file"
    return schema


def _refusal(path: str | Path, reason: object) -> ProjectError:
    message = " ".join(f"project file {path}: {reason}".split())
    return ProjectError("".join(character if character.isprintable() else ascii(character)[1:-1] for character in message))


def _explain(error: ValidationError) -> str:
    problems = dict.fromkeys(_explain_one(detail) for detail in error.errors(include_url=False))
    return "; ".join(problems)


def _explain_one(detail: Any) -> str:
    location, kind, message = detail["loc"], detail["type"], detail["msg"]
    if location[:2] == ("training", "parameters") and len(location) == 4:
        location, message = location[:3], "must be a bool, int, float or text"
    field = ".".join(str(part) for part in location) or "(file)"
    if kind == "missing":
        return f"{field}: required, but not given"
    if kind == "extra_forbidden":
        return f"{field}: no such field ({_allowed_fields(location[:-1])})"
    if kind in ("model_type", "model_attributes_type"):
        return f"{field}: {_shown(detail['input'])}: expected fields ({_allowed_fields(location)})"
    if kind == "value_error":
        refused = message.removeprefix("Value error, ")
        a_value = not _holds_sections(detail["input"])  # a section's validators name the values that do not fit together
        return f"{field}: {_shown(detail['input'])}: {refused}" if a_value else f"{field}: {refused}"
    if kind == "string_type" and isinstance(detail["input"], int | float):
        return f"{field}: {_shown(detail['input'])}: {message[0].lower()}{message[1:]}; put it in quotes"
    if kind == "string_pattern_mismatch":
        return f"{field}: {_shown(detail['input'])}: {IN_WORDS[detail['ctx']['pattern']]}"
    return f"{field}: {_shown(detail['input'])}: {message[0].lower()}{message[1:]}"


def _holds_sections(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value))


def _shown(value: Any) -> str:
    text = _USER_IN_ADDRESS.sub("…@", repr(value))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _section_in(annotation: Any) -> Any:
    """Return the section of an annotation such as `ClusterSection | None` or `tuple[Toleration, ...]`."""
    return next((part for part in get_args(annotation) if hasattr(part, "model_fields")), annotation)


def _allowed_fields(location: tuple[int | str, ...]) -> str:
    section: Any = Project
    for part in location:
        if isinstance(part, int):  # of a list, whose section is known already
            continue
        field = getattr(section, "model_fields", {}).get(part)
        section = _section_in(field.annotation) if field is not None else None
    fields = getattr(section, "model_fields", None)
    return f"allowed: {', '.join(fields)}" if fields else "nothing is allowed there"
