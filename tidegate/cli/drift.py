"""`tidegate drift`: check a window of the inference log for drift, and list earlier checks."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from tidegate.cli.options import Where
from tidegate.cli.output import Json, show
from tidegate.errors import MonitoringError
from tidegate.monitoring.records import ColumnDrift, DriftCheck, check_key, read_checks, read_retrainings
from tidegate.project import load_project
from tidegate.storage import open_store

app = typer.Typer(no_args_is_help=True)

ProjectFile = Annotated[Path, typer.Option("--project", help="The project file.")]
_SHOWN = 10


@app.command()
def check(
    project_file: ProjectFile = Path("tidegate.yaml"),
    window_end: Annotated[
        str | None, typer.Option(help="End of the window, event time, ISO 8601, UTC if it names no zone; default: now.")
    ] = None,
    where: Where = "local",
    as_json: Json = False,
) -> None:
    """Check the window before WINDOW_END, write its report, and say what the drift policy makes of it. Starts nothing."""
    from tidegate.monitoring.check import check_drift
    from tidegate.monitoring.policy import decide
    from tidegate.registry.registry import ModelRegistry

    project = load_project(project_file, target=where)
    store = open_store(project.store_uri)
    found = check_drift(project, store, ModelRegistry(store), _moment(window_end))
    decision = decide(
        project.monitoring.policy,
        read_checks(store, project.name),
        read_retrainings(store, project.name),
        found.window_end,
    )
    report = f"{store.uri}/{check_key(project.name, found.window_end, '.html')}"

    def render(console: Console) -> None:
        console.print(_columns_table((found.prediction, *found.columns[:_SHOWN])))
        colour = "red" if found.drifted else "green"
        console.print(f"[{colour}]{found.summary}[/{colour}]", soft_wrap=True)
        console.print(f"policy: {'retrain' if decision.retrain else 'keep'}: {decision.reason}", soft_wrap=True)
        console.print(f"report: {report}", soft_wrap=True)

    result = {
        "check": msgspec.to_builtins(found),
        "decision": {"retrain": decision.retrain, "reason": decision.reason},
        "report": report,
    }
    show(result, as_json=as_json, render=render)


@app.command()
def history(project_file: ProjectFile = Path("tidegate.yaml"), where: Where = "local", as_json: Json = False) -> None:
    """List every check and every retraining, oldest first."""
    project = load_project(project_file, target=where)
    store = open_store(project.store_uri)
    checks, retrainings = read_checks(store, project.name), read_retrainings(store, project.name)

    def render(console: Console) -> None:
        console.print(_history_table(checks))
        for retraining in retrainings:
            at, outcome = f"{retraining.at:%Y-%m-%d %H:%M}Z", retraining.outcome or retraining.state
            console.print(f"retraining {retraining.number}  {at}  {outcome}: {retraining.reason}", soft_wrap=True)

    result = {"checks": msgspec.to_builtins(checks), "retrainings": msgspec.to_builtins(retrainings)}
    show(result, as_json=as_json, render=render)


def _moment(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise MonitoringError(f"--window-end {text!r} is not a time; use ISO 8601, such as 2013-06-01T00:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _columns_table(columns: tuple[ColumnDrift, ...]) -> Table:
    table = Table("column", "PSI", "drifted", "missing", "in reference", title="Farthest moved columns")
    for column in columns:
        table.add_row(
            column.column,
            f"{column.psi:.3f}",
            "[red]yes[/red]" if column.drifted else "no",
            f"{column.missing_current:.1%}",
            f"{column.missing_reference:.1%}",
        )
    return table


def _history_table(checks: list[DriftCheck]) -> Table:
    table = Table("window end", "version", "rows", "inputs moved", "prediction PSI", "AUC", "drifted", title="Drift checks")
    for found in checks:
        table.add_row(
            f"{found.window_end:%Y-%m-%d %H:%M}Z",
            str(found.version),
            f"{found.rows:,}",
            f"{found.drifted_share:.0%}",
            f"{found.prediction.psi:.3f}",
            "-" if found.concept.window is None else f"{found.concept.window:.3f}",
            ("[red]yes[/red]" if found.drifted else "no") if found.counted else "not counted",
        )
    return table
