"""The commands for schedules in Kubeflow Pipelines: schedule, schedules, history, pause, resume, unschedule."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipelines.kubeflow.cluster_commands import (
    FLIGHTS,
    NAMES,
    Experiment,
    Host,
    Image,
    Name,
    Namespace,
    Param,
    ProjectFile,
    UiHost,
    parameters,
    say,
    submitter_at,
    told_if_interrupted,
)
from tidegate.cli.output import Json, show, stderr
from tidegate.errors import PipelineError
from tidegate.project import load_project

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.kubeflow.schedules import Kept, ScheduleChange, Schedules

app = typer.Typer()

_FINISHES = "the same command finishes what was begun"


@app.command()
def schedule(
    name: Name,
    cron: Annotated[str, typer.Option(help="Five fields (minute first), six (second first), or @hourly, @daily, …")],
    host: Host,
    image: Image,
    project: ProjectFile = FLIGHTS,
    namespace: Namespace = None,
    experiment: Experiment = None,
    param: Param = None,
    catch_up: Annotated[
        bool, typer.Option("--catch-up/--no-catch-up", help="Make up for every run missed, or only for the last.")
    ] = False,
    enabled: Annotated[
        bool | None, typer.Option("--resume/--pause", help="Start runs, or do not; as it is, if not given.")
    ] = None,
    ui: UiHost = None,
    as_json: Json = False,
) -> None:
    """Keep exactly one schedule of a pipeline, as described here: made, replaced, or left alone."""
    from pipelines.kubeflow.cron import six_fields
    from pipelines.kubeflow.schedules import Schedules, Wanted
    from pipelines.kubeflow.submission import compiled_pipeline

    six = six_fields(cron)
    compiled = compiled_pipeline(pipeline=name, project_file=project, image=image)
    typed = compiled.parameters(parameters(param or []))
    if six != " ".join(cron.split()):
        stderr.print(
            f"cron {cron!r} is kept as {six!r}: second, minute, hour, day, month, weekday", markup=False, soft_wrap=True
        )
    cluster = compiled.project.on_cluster
    submitter = submitter_at(host, ui, namespace or cluster.namespace)
    with told_if_interrupted(_FINISHES), _finished_by_repeating():
        wanted = Wanted(
            name=compiled.name,
            cron=six,
            catch_up=catch_up,
            uploaded=submitter.upload(compiled),
            parameters=typed,
            experiment_id=submitter.experiment(experiment or compiled.project.name),
            service_account=cluster.steps.service_account,
        )
        schedules = Schedules(submitter)
        change = schedules.put(wanted, enabled=enabled)
    _show_change(schedules, change, as_json=as_json)


@app.command("schedules")
def list_schedules(host: Host, project: ProjectFile = FLIGHTS, namespace: Namespace = None, as_json: Json = False) -> None:
    """Show the project's schedules, with the version and image that each runs."""
    schedules, prefix = _opened(host, project, namespace)
    kept = [_facts(schedules, one) for pipeline in NAMES for one in schedules.find(f"{prefix}-{pipeline}")]

    def render(console: Console) -> None:
        if not kept:
            console.print(f"{prefix} has no schedules")
            return
        for one in kept:
            late = "makes up for missed runs" if one["catch_up"] else "no catch-up"
            line = f"{one['name']}  {one['state']}  {one['cron']}  {late}\n  version {one['version']}\n  image {one['image']}"
            say(line)(console)

    show(kept, as_json=as_json, render=render)


@app.command()
def history(
    name: Name,
    host: Host,
    project: ProjectFile = FLIGHTS,
    namespace: Namespace = None,
    limit: Annotated[int, typer.Option(min=1, help="How many runs.")] = 20,
    ui: UiHost = None,
    as_json: Json = False,
) -> None:
    """Show the last runs that a schedule started, and how they ended."""
    schedules, prefix = _opened(host, project, namespace, ui=ui)
    runs = schedules.history(f"{prefix}-{name}", limit=limit)

    def render(console: Console) -> None:
        if not runs:
            console.print(f"schedule {prefix}-{name} has started no run yet")
        for run in runs:
            say(f"{run.scheduled_at}  {run.state:<9}  {run.link}")(console)

    show([asdict(run) for run in runs], as_json=as_json, render=render)


@app.command()
def pause(name: Name, host: Host, project: ProjectFile = FLIGHTS, namespace: Namespace = None, as_json: Json = False) -> None:
    """Pause a schedule: it starts no more runs; one that goes on goes on."""
    _switch(name, host, project, namespace, enabled=False, as_json=as_json)


@app.command()
def resume(name: Name, host: Host, project: ProjectFile = FLIGHTS, namespace: Namespace = None, as_json: Json = False) -> None:
    """Let a paused schedule start runs again."""
    _switch(name, host, project, namespace, enabled=True, as_json=as_json)


@app.command()
def unschedule(
    name: Name, host: Host, project: ProjectFile = FLIGHTS, namespace: Namespace = None, as_json: Json = False
) -> None:
    """End a schedule; its runs, and what they made, stay."""
    schedules, prefix = _opened(host, project, namespace)
    with told_if_interrupted(_FINISHES), _finished_by_repeating():
        change = schedules.remove(f"{prefix}-{name}")
    _show_change(schedules, change, as_json=as_json)


def _switch(name: str, host: str, project: "Path", namespace: str | None, *, enabled: bool, as_json: bool) -> None:
    schedules, prefix = _opened(host, project, namespace)
    with told_if_interrupted(_FINISHES), _finished_by_repeating():
        change = schedules.switch(f"{prefix}-{name}", enabled=enabled)
    _show_change(schedules, change, as_json=as_json)


def _opened(host: str, project: "Path", namespace: str | None, *, ui: str | None = None) -> tuple["Schedules", str]:
    from pipelines.kubeflow.schedules import Schedules

    described = load_project(project, target="kserve")
    submitter = submitter_at(host, ui, namespace or described.on_cluster.namespace)
    return Schedules(submitter), described.name


@contextmanager
def _finished_by_repeating() -> Iterator[None]:
    from pipelines.kubeflow.api_errors import LostReply, Unreachable

    try:
        yield
    except (LostReply, Unreachable) as failure:
        raise PipelineError(f"{failure}; {_FINISHES}") from failure


def _show_change(schedules: "Schedules", change: "ScheduleChange", *, as_json: bool) -> None:
    facts = None if change.kept is None else _facts(schedules, change.kept)
    line = f"schedule {change.name}: {change.change}"
    if facts is not None:
        line += f"; {facts['state']}, {facts['cron']!r}, version {facts['version']}"
    show({"name": change.name, "change": change.change, "schedule": facts}, as_json=as_json, render=say(line))


def _facts(schedules: "Schedules", kept: "Kept") -> dict[str, Any]:
    version, image = schedules.runs_what(kept)
    return {
        "name": kept.name,
        "recurring_run": kept.recurring_run_id,
        "state": "enabled" if kept.enabled else "paused",
        "cron": kept.cron,
        "catch_up": kept.catch_up,
        "version": version,
        "image": image,
    }
