"""`tidegate local`: run InferenceServices on this machine."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tidegate.cli.output import Json, show
from tidegate.cli.service_table import described, service_table
from tidegate.deployment.local.operations import start_supervisor, stop_supervisor
from tidegate.deployment.local.state import LocalState
from tidegate.deployment.local.target import LocalTarget
from tidegate.errors import DeploymentError

app = typer.Typer(no_args_is_help=True)

Workspace = Annotated[Path, typer.Option("--workspace", help="Folder for everything Tidegate writes on this machine.")]
_DEFAULT = Path(".tidegate")


@app.command()
def up(
    workspace: Workspace = _DEFAULT,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is up; it goes on in the background.")] = False,
    as_json: Json = False,
) -> None:
    """Start the supervisor: it runs the model servers and Envoy until it is stopped."""
    if detach:
        pid, log = start_supervisor(workspace)
        _show_started(pid, log, as_json=as_json)
        return
    from tidegate.deployment.local.supervisor import run_supervisor

    log = LocalState(workspace).logs
    run_supervisor(workspace, on_ready=lambda: _show_started(os.getpid(), log, as_json=as_json))


@app.command()
def down(workspace: Workspace = _DEFAULT, as_json: Json = False) -> None:
    """Stop the supervisor and everything it started; stopping what does not run is no error."""
    stopped = stop_supervisor(workspace)
    message = "[green]stopped[/green]" if stopped else "nothing was running"
    show({"stopped": stopped}, as_json=as_json, render=lambda console: console.print(message))


@app.command()
def status(workspace: Workspace = _DEFAULT, as_json: Json = False) -> None:
    """Show every service: its revisions, whether they are ready, and their share of the traffic."""
    target = LocalTarget(workspace)
    services = [_describe(target, name) for name in target.services()]
    record = target.state.read_supervisor()

    def render(console: Console) -> None:
        console.print(
            f"supervisor: [green]pid {record['pid']}[/green]" if record else "supervisor: [yellow]not running[/yellow]"
        )
        for service in services:
            console.print(service_table(service))

    show({"running": record is not None, "services": services}, as_json=as_json, render=render)


def _describe(target: LocalTarget, name: str) -> dict[str, Any]:
    try:
        status = target.status(name)
    except DeploymentError as error:
        return {"name": name, "url": "", "settled": False, "reason": str(error), "revisions": []}
    return described(status)


def _show_started(pid: int, log: Path, *, as_json: bool) -> None:
    show({"pid": pid, "log": str(log)}, as_json=as_json, render=lambda console: console.print(f"up, pid {pid}, log {log}"))
