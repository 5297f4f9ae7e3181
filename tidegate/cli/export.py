"""`tidegate models export`: write a registered version, or a package, in another server's layout."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.options import DEFAULT_STORE, Name, Store, Version
from tidegate.cli.output import Json, show, stderr
from tidegate.registry.registry import CHAMPION, ModelRegistry
from tidegate.storage import open_store


def command(
    name: Name,
    version: Version = CHAMPION,
    out: Annotated[Path, typer.Option(help="Directory for Triton's model repository.")] = Path("triton"),
    features_supplied: Annotated[
        bool, typer.Option("--features-supplied", help="A transformer in front of Triton looks up the features.")
    ] = False,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows in one request; Triton refuses more.")] = 1024,
    store: Store = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Write a version as a model repository of NVIDIA's Triton, for the serving runtime tidegate-triton."""
    from tidegate.packaging.triton.repository import write_triton_repository

    registry = ModelRegistry(open_store(store))
    number = registry.resolve(name, version)
    with tempfile.TemporaryDirectory(prefix="tidegate-export-") as folder, stderr.status("Exporting"):
        package = registry.download(name, number, Path(folder) / "package")
        write_triton_repository(package, out, features_supplied=features_supplied, max_rows=max_rows)
    show(
        {"name": name, "version": number, "path": str(out.resolve())},
        as_json=as_json,
        render=lambda console: console.print(
            f"[green]exported[/green]  {name} version {number} to {out}; upload it; storageUri is its address and a '/'",
            soft_wrap=True,
        ),
    )
