"""`tidegate project`: check a project file, or print its JSON Schema."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from tidegate.cli.output import Json, show
from tidegate.project import load_project, project_schema

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The project file.")] = Path("tidegate.yaml"), as_json: Json = False
) -> None:
    """Check a project file: every field, its type and its bounds."""
    project = load_project(file)

    def render(console: Console) -> None:
        console.print(
            f"[green]valid[/green]  {project.name}  {project.digest[:19]}…  workspace {escape(str(project.paths.workspace))}",
            soft_wrap=True,
        )

    show({"name": project.name, "digest": project.digest, "valid": True}, as_json=as_json, render=render)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the project file, for editors."""
    sys.stdout.write(json.dumps(project_schema(), indent=2) + "\n")
