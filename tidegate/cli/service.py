"""`tidegate service`: what a project's service runs now, and the document that a version would be deployed by."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from tidegate.cli.options import Version, Where
from tidegate.cli.output import Json, show
from tidegate.cli.service_table import described, service_table
from tidegate.clock import open_clock
from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.opening import open_target
from tidegate.project import Project, load_project
from tidegate.registry.registry import CHAMPION, ModelRegistry
from tidegate.storage import open_store

app = typer.Typer(no_args_is_help=True)

ProjectFile = Annotated[Path, typer.Option("--project", help="The project file.")]
_DEFAULT_FILE = Path("tidegate.yaml")


@app.command()
def status(file: ProjectFile = _DEFAULT_FILE, where: Where = "local", as_json: Json = False) -> None:
    """Show the revisions that run, whether they are ready, and their share of the traffic as it is in force."""
    project = load_project(file, target=where)
    service = described(open_target(project).status(project.name))
    show(service, as_json=as_json, render=lambda console: console.print(service_table(service)))


@app.command()
def render(
    version: Version = CHAMPION,
    file: ProjectFile = _DEFAULT_FILE,
    clock: Annotated[str, typer.Option("--clock", help="Event time: wall, at:MOMENT or replay:PATH.")] = "wall",
    as_json: Json = False,
) -> None:
    """Print the InferenceService by which a release would deploy a version to the project's cluster. Nothing is sent.

    For GitOps, or to look at before a release. Where Tidegate deploys, it also keeps notes of its own on the document.
    """
    from tidegate.deployment.kserve.companions import companion_documents
    from tidegate.deployment.kserve.documents import knative_document, standard_document
    from tidegate.release.delivery import serving_environment  # imports pandas

    project = load_project(file, target="kserve")
    cluster = project.on_cluster
    open_clock(clock)  # refuses what is none
    env = serving_environment(project, clock=clock)
    service = Service(project.name, cluster.namespace, _revision(project, version, env))
    in_place = project.rollout.strategy == "replace"
    if cluster.mode == "Knative":
        document = knative_document(service, cluster, latest=service.stable, percent=None)
    else:
        document = standard_document(service, cluster, in_place=in_place)
    documents = [document, *companion_documents(service, cluster, in_place=in_place)]
    text = yaml.safe_dump_all(documents, sort_keys=False)
    show(documents, as_json=as_json, render=lambda console: console.print(text, end="", markup=False, soft_wrap=True))


def _revision(project: Project, version: str, env: dict[str, str]) -> Revision:
    registry = ModelRegistry(open_store(project.store_uri))
    number = registry.resolve(project.name, version)
    replicas = project.on_cluster.serving.min_replicas
    return Revision(f"v{number}", registry.uri(project.name, number), env, min_replicas=replicas)
