"""`tidegate doctor`: say what is missing, on this machine, for a project, and on its cluster."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tidegate.cli.options import Where
from tidegate.cli.output import Json, show
from tidegate.doctor.finding import Finding
from tidegate.doctor.machine import examine_machine
from tidegate.project import load_project

_MARKS = {"ok": "[green]ok[/green]", "missing": "[red]missing[/red]", "optional": "[yellow]optional[/yellow]"}


def command(
    file: Annotated[
        Path | None, typer.Option("--project", help="The project file; ./tidegate.yaml if there is one, else none.")
    ] = None,
    where: Where = "local",
    as_json: Json = False,
) -> None:
    """Look at everything Tidegate needs. Exits with status 1 if something is missing that is needed."""
    findings = list(_examine(file, where))
    show([asdict(finding) for finding in findings], as_json=as_json, render=lambda console: _draw(console, findings))
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


def _examine(file: Path | None, where: str) -> Iterator[Finding]:
    yield from examine_machine()
    default = Path("tidegate.yaml")
    if file is None and not default.exists() and where == "local":
        return
    from tidegate.doctor.places import examine_places

    project = load_project(file or default, target=where)
    yield from examine_places(project)
    if where == "kserve":
        from tidegate.doctor.cluster import examine_cluster

        yield from examine_cluster(project)


def _draw(console: Console, findings: list[Finding]) -> None:
    table = Table("", "", Column("found", overflow="fold"), Column("what to do", overflow="fold"))
    for finding in findings:
        fix = finding.fix if finding.state != "ok" else ""
        table.add_row(finding.subject, _MARKS[finding.state], escape(finding.found), escape(fix))
    console.print(table)
