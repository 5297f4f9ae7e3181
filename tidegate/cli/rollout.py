"""`tidegate rollout`: start, watch, promote and abort rollouts."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tidegate.cli.options import Where
from tidegate.cli.output import Json, show, stderr
from tidegate.clock import open_clock
from tidegate.deployment.opening import open_target
from tidegate.deployment.target import Target
from tidegate.errors import RolloutError
from tidegate.project import Project, load_project
from tidegate.registry.registry import ModelRegistry
from tidegate.rollout.judge import Comparison, requests_needed
from tidegate.rollout.opening import open_metrics_source
from tidegate.rollout.record import Look, RolloutJournal, RolloutRecord
from tidegate.rollout.rollout import abort_rollout, promote_rollout, rollout_history, run_rollout, start_rollout
from tidegate.rollout.termination import terminated_like_interrupted
from tidegate.storage import ObjectStore, open_store

app = typer.Typer(no_args_is_help=True)

ProjectFile = Annotated[Path, typer.Option("--project", help="The project file.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the record.")]
_DEFAULT_FILE = Path("tidegate.yaml")
_STYLES = {"promoted": "green", "rolled_back": "red", "advance": "green", "rollback": "red"}


@app.command()
def start(
    version: Annotated[str, typer.Argument(help="The version to roll out: its number, or an alias such as challenger.")],
    file: ProjectFile = _DEFAULT_FILE,
    where: Where = "local",
    reason: Reason = "started by hand",
    clock: Annotated[str, typer.Option("--clock", help="Event time of the revision: wall, at:MOMENT or replay:PATH.")] = "wall",
    as_json: Json = False,
) -> None:
    """Roll a version out, step by step, to its outcome; the same again continues after a crash. Ctrl-C rolls back.

    Exits with status 1 if the version is rolled back.
    """
    from tidegate.release.delivery import serving_environment  # imports pandas

    project = load_project(file, target=where)
    event_time = open_clock(clock)
    store, registry, target = _open(project)
    started = start_rollout(
        project=project,
        store=store,
        registry=registry,
        target=target,
        version=registry.resolve(project.name, version),
        env=serving_environment(project, clock=clock),
        reason=reason,
        clock=event_time,
    )
    if not as_json:
        stderr.print(f"rollout {started.rollout_id}: {project.name} version {started.version}{_needs(project)}")
    try:
        with terminated_like_interrupted():
            record = run_rollout(
                project=project,
                store=store,
                registry=registry,
                target=target,
                metrics=open_metrics_source(project),
                rollout_id=started.rollout_id,
                on_look=None if as_json else _print_look,
            )
    except KeyboardInterrupt:
        stderr.print(_what_goes_on(store, project.name, started.rollout_id), soft_wrap=True)
        raise
    _show(record, as_json=as_json)
    if record.state == "rolled_back":
        raise typer.Exit(1)


@app.command()
def status(
    file: ProjectFile = _DEFAULT_FILE,
    where: Where = "local",
    rollout_id: Annotated[str | None, typer.Option("--id", help="Which rollout; the last one by default.")] = None,
    history: Annotated[bool, typer.Option("--history", help="List every rollout instead.")] = False,
    as_json: Json = False,
) -> None:
    """Show a rollout's state, its steps and the judge's looks."""
    project = load_project(file, target=where)
    records = rollout_history(open_store(project.store_uri), project.name)
    if history:
        show([_summary(record) for record in records], as_json=as_json, render=lambda console: _draw_history(console, records))
        return
    found = [record for record in records if rollout_id in (None, record.rollout_id)]
    if not found:
        wanted = f"no rollout {rollout_id!r}" if rollout_id else "no rollout"
        raise RolloutError(f"{project.name} has had {wanted}; start one with `tidegate rollout start VERSION`")
    _show(found[-1], as_json=as_json)


@app.command()
def promote(
    file: ProjectFile = _DEFAULT_FILE, where: Where = "local", reason: Reason = "promoted by hand", as_json: Json = False
) -> None:
    """Promote the canary of the rollout under way now, without waiting for the judge."""
    project = load_project(file, target=where)
    store, registry, target = _open(project)
    record = promote_rollout(project=project, store=store, registry=registry, target=target, reason=reason)
    _show(record, as_json=as_json)


@app.command()
def abort(
    file: ProjectFile = _DEFAULT_FILE, where: Where = "local", reason: Reason = "aborted by hand", as_json: Json = False
) -> None:
    """Roll back the rollout under way now."""
    project = load_project(file, target=where)
    store, registry, target = _open(project)
    record = abort_rollout(project=project, store=store, registry=registry, target=target, reason=reason)
    _show(record, as_json=as_json)


def _what_goes_on(store: ObjectStore, service: str, rollout_id: str) -> str:
    """Say what an interrupt left behind."""
    record = RolloutJournal(store, service).load(rollout_id)
    if record.state == "rolled_back":
        alone = f"{record.stable.name} has all the traffic" if record.stable else "nothing is deployed"
        return f"interrupted: rollout {rollout_id} was rolled back; {alone}"
    if record.state == "promoted":
        return f"interrupted: rollout {rollout_id} was over; version {record.version} is promoted"
    return (
        f"interrupted: rollout {rollout_id} is {record.state}, its canary may have {record.percent} % of the traffic; "
        "end it with `tidegate rollout abort`, or give the same command again to go on"
    )


def _needs(project: Project) -> str:
    if project.rollout.strategy == "replace":
        return "; it takes the stable's place at once"
    return f"; promotion needs {requests_needed(project.rollout)} canary requests or more"


def _open(project: Project) -> tuple[ObjectStore, ModelRegistry, Target]:
    store = open_store(project.store_uri)
    return store, ModelRegistry(store), open_target(project)


def _summary(record: RolloutRecord) -> dict[str, Any]:
    """Return the record without the judge's raw counts."""
    document: dict[str, Any] = msgspec.to_builtins(record)
    document["percent"] = record.percent
    for tally in ("stable_tally", "canary_tally"):
        del document[tally]
    return document


def _show(record: RolloutRecord, *, as_json: bool) -> None:
    show(_summary(record), as_json=as_json, render=lambda console: _draw(console, record))


def _draw(console: Console, record: RolloutRecord) -> None:
    stable = record.stable.name if record.stable else "nothing"
    console.print(f"{record.rollout_id}  {record.service}: {stable} → {record.canary.name}  ({escape(record.reason)})")
    steps = Table("time", "state", "canary", "because", box=None)
    told = record.outcome  # below, on a line of its own
    for transition in record.transitions:
        reason = "" if transition.reason == told else escape(transition.reason)
        steps.add_row(f"{transition.at:%H:%M:%S}", _coloured(transition.state), f"{transition.percent} %", reason)
    console.print(steps)
    if record.looks:
        looks = Table("look", "time", "canary", "requests", "errors", "p95 ms", "verdict", "because", box=None)
        for look in record.looks:
            looks.add_row(*_cells(look))
        console.print(looks)
    console.print(f"{_coloured(record.state)}  {escape(record.outcome)}", soft_wrap=True)


def _cells(look: Look) -> tuple[str, ...]:
    evidence = look.evidence
    return (
        str(look.number),
        f"{look.at:%H:%M:%S}",
        f"{look.percent} %",
        str(evidence.canary_requests),
        _both(evidence.errors, 100, "%"),
        _both(evidence.latency, 1000, ""),
        _coloured(look.verdict),
        escape(look.reason),
    )


def _both(comparison: Comparison, factor: float, unit: str) -> str:
    """Show the canary's estimate against the stable's."""
    values = (comparison.canary, comparison.stable)
    shown = ["–" if value is None else f"{value * factor:.3g}{unit}" for value in values]  # noqa: RUF001
    return " vs ".join(shown)


def _draw_history(console: Console, records: list[RolloutRecord]) -> None:
    table = Table("rollout", "version", "state", "looks", "started because", "ended because", box=None)
    for record in records:
        table.add_row(
            record.rollout_id,
            str(record.version),
            _coloured(record.state),
            str(record.looks_taken),
            escape(record.reason),
            escape(record.outcome),
        )
    console.print(table)


def _print_look(record: RolloutRecord) -> None:
    look = record.looks[-1]
    line = f"{look.at:%H:%M:%S}  {look.percent:>3} %  {_coloured(look.verdict)}  {escape(look.reason)}"
    stderr.print(line, soft_wrap=True)


def _coloured(word: str) -> str:
    style = _STYLES.get(word, "yellow")
    return f"[{style}]{word}[/{style}]"
