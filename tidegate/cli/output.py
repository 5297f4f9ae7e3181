"""How every command shows its result: a rich table for people, or `--json` for programs; errors on stderr, one line each."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def show(result: Any, *, as_json: bool, render: Callable[[Console], None]) -> None:
    """Print `result` as JSON, or let `render` draw it on the terminal."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, default=str) + "\n")
    else:
        render(stdout)
