"""Compiles the pipelines to Kubeflow's intermediate representation, for one project file and one image."""

import os
import re
from pathlib import Path

from kfp import compiler, dsl

from components.step import PLACEHOLDER_IMAGE
from pipelines.catalog import pipelines_on
from tidegate.errors import PipelineError
from tidegate.project import load_project

_IMAGE = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")


def compile_all(*, project_file: Path, image: str = PLACEHOLDER_IMAGE, out: Path) -> list[Path]:
    """Write `<name>.yaml` for every pipeline to `out`; its defaults name the project file and its digest.

    Where the project file describes a cluster, the tasks are placed on it, and the target is `kserve` by default.

    Raises:
        PipelineError: The image is not pinned by digest, or `out` cannot be written.
        ProjectError: The project file is not valid.
    """
    if not _IMAGE.fullmatch(image):
        raise PipelineError(f"image {image!r} must be pinned by digest: NAME@sha256:<64 hex digits>")
    project = load_project(project_file)
    target = "local" if project.cluster is None else "kserve"
    defaults = {"project_file": project_file.as_posix(), "project_digest": project.digest, "target": target}
    try:
        out.mkdir(parents=True, exist_ok=True)
        return [
            _compile(pipeline, out / f"{name}.yaml", defaults, image)
            for name, pipeline in pipelines_on(project.cluster).items()
        ]
    except OSError as error:
        raise PipelineError(f"folder {out}: cannot be written: {error.strerror}") from error


def _compile(pipeline: dsl.base_component.BaseComponent, path: Path, defaults: dict[str, str], image: str) -> Path:
    fresh = path.with_name(f".{path.stem}.{os.getpid()}.yaml")
    try:
        compiler.Compiler().compile(pipeline, str(fresh), pipeline_parameters=defaults)
        fresh.write_text(fresh.read_text(encoding="utf-8").replace(PLACEHOLDER_IMAGE, image), encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return path
