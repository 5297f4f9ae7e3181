"""The commands for runs in Kubeflow Pipelines: submit, follow, terminate; and what they share with those for schedules."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tidegate.cli.output import Json, show, stderr
from tidegate.errors import PipelineError

if TYPE_CHECKING:
    from pipelines.kubeflow.client import KubeflowPipelines
    from pipelines.kubeflow.following import RunOutcome
    from pipelines.kubeflow.submission import Submitter

app = typer.Typer()

NAMES = ("release", "drift", "batch")
FLIGHTS = Path("examples/flights/tidegate.yaml")
_TIMEOUT_SECONDS = 30.0
_INTERRUPTED = 130

Name = Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")]
Run = Annotated[str, typer.Argument(help="The run's id.")]
ProjectFile = Annotated[Path, typer.Option("--project", help="The project file, which describes the cluster.")]
Image = Annotated[str, typer.Option(help="Image of every task, NAME@sha256:…")]
Host = Annotated[str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Address of Kubeflow Pipelines, as in a browser.")]
UiHost = Annotated[str | None, typer.Option(envvar="KF_PIPELINES_UI_ENDPOINT", help="Address of its UI, if it is another.")]
Namespace = Annotated[
    str | None, typer.Option(help="Namespace of your profile in a multi-user Kubeflow; the project's, if not given.")
]
Experiment = Annotated[str | None, typer.Option(help="Name of the experiment; the project's name, if not given.")]
Param = Annotated[list[str] | None, typer.Option(help="KEY=VALUE, a pipeline parameter; repeatable.")]
Timeout = Annotated[float | None, typer.Option(min=1, help="Seconds to follow the run at most; to its end, if not given.")]


@app.command()
def submit(
    name: Name,
    host: Host,
    image: Image,
    project: ProjectFile = FLIGHTS,
    namespace: Namespace = None,
    experiment: Experiment = None,
    param: Param = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Follow the run to its end.")] = True,
    timeout: Timeout = None,
    ui: UiHost = None,
    as_json: Json = False,
) -> None:
    """Upload a pipeline if it is new, run it in Kubeflow Pipelines, and say how it went."""
    from pipelines.kubeflow.submission import compiled_pipeline

    compiled = compiled_pipeline(pipeline=name, project_file=project, image=image)
    arguments = parameters(param or [])
    compiled.parameters(arguments)  # what is wrong is refused before anything is asked of the cluster
    submitter = submitter_at(host, ui, namespace or compiled.project.on_cluster.namespace)
    with told_if_interrupted(f"whether the run was started is not known; see {submitter.ui}/#/runs"):
        submitted = submitter.start(compiled, arguments, experiment=experiment)
    say(f"version {submitted.uploaded.version} {'uploaded' if submitted.uploaded.fresh else 'was there already'}")(stderr)
    facts = {
        "pipeline": name,
        "run": submitted.run_id,
        "name": submitted.name,
        "version": submitted.uploaded.version,
        "uploaded": submitted.uploaded.fresh,
        "namespace": submitter.namespace,
        "link": submitted.link,
    }
    if follow:
        _follow(submitter.api, facts, title=name, timeout=timeout, as_json=as_json)
    else:
        show(facts | {"state": "started"}, as_json=as_json, render=say(f"run {submitted.run_id} started: {submitted.link}"))


@app.command("follow")
def follow_run(run: Run, host: Host, timeout: Timeout = None, ui: UiHost = None, as_json: Json = False) -> None:
    """Follow a run to its end, and say how it went."""
    from pipelines.kubeflow.submission import run_page

    api = api_at(host)
    _follow(api, {"run": run, "link": run_page(ui or api.host, run)}, title="run", timeout=timeout, as_json=as_json)


@app.command()
def terminate(run: Run, host: Host, as_json: Json = False) -> None:
    """Ask for the end of a run; Kubeflow ends its pods."""
    from pipelines.kubeflow.client import API

    api_at(host).act(f"{API}/runs/{run}:terminate")
    show({"run": run, "state": "terminating"}, as_json=as_json, render=say(f"run {run} is being terminated"))


def api_at(host: str) -> "KubeflowPipelines":
    """Return a client of the Kubeflow Pipelines at `host`, with the environment's credentials."""
    from pipelines.kubeflow.authentication import credentials_of
    from pipelines.kubeflow.client import KubeflowPipelines, checked_host

    host = checked_host(host)
    credentials = credentials_of(os.environ, host=host, timeout_seconds=_TIMEOUT_SECONDS)
    return KubeflowPipelines(host, credentials, timeout_seconds=_TIMEOUT_SECONDS)


def submitter_at(host: str, ui: str | None, namespace: str | None) -> "Submitter":
    """Return what uploads and starts pipelines in a namespace of the Kubeflow Pipelines at `host`."""
    from pipelines.kubeflow.submission import Submitter

    return Submitter(api_at(host), namespace=namespace, ui=ui)


def parameters(pairs: list[str]) -> dict[str, str]:
    """Read `--param` options; raises PipelineError if one is not KEY=VALUE."""
    for pair in pairs:
        if "=" not in pair:
            raise PipelineError(f"--param {pair!r}: expected KEY=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def say(line: str) -> Callable[[Console], None]:
    """Return what prints one line, for `show`."""
    return lambda console: console.print(line, soft_wrap=True, markup=False)


@contextmanager
def told_if_interrupted(line: str) -> Iterator[None]:
    """Say what goes on in the cluster when the user interrupts us, and end with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        stderr.print(f"interrupted; {line}", soft_wrap=True, markup=False)
        raise typer.Exit(_INTERRUPTED) from None


def _follow(api: "KubeflowPipelines", facts: dict[str, Any], *, title: str, timeout: float | None, as_json: bool) -> None:
    from pipelines.kubeflow.following import follow
    from pipelines.kubeflow.progress import TaskProgress

    run = facts["run"]
    stderr.print(f"run {run}: {facts['link']}", soft_wrap=True, markup=False)
    goes_on = (
        f"the run goes on in the cluster: {facts['link']}; follow it again by: python -m pipelines follow {run} "
        f"--host {api.host}; end it by: python -m pipelines terminate {run} --host {api.host}"
    )
    with told_if_interrupted(goes_on), TaskProgress(title) as progress:
        outcome = follow(api, run, on_event=progress.task, on_outage=progress.outage, timeout_seconds=timeout)
    _show_outcome(outcome, facts, as_json=as_json)


def _show_outcome(outcome: "RunOutcome", facts: dict[str, Any], *, as_json: bool) -> None:
    told = facts | {"name": outcome.name, "state": outcome.state, "seconds": round(outcome.seconds, 1), "cause": outcome.cause}
    if as_json or outcome.succeeded:
        show(told, as_json=as_json, render=say(f"{outcome.name} {outcome.state} in {outcome.seconds:.0f} s; {facts['link']}"))
    if not outcome.succeeded:
        ended = "was terminated" if outcome.state == "terminated" else "failed"
        raise PipelineError(f"{outcome.name} {ended}: {outcome.cause}; {facts['link']}")
