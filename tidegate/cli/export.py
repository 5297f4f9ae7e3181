"""`tidegate models export`: write a registered version, or a package, in another server's layout."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tidegate.cli.located_package import ModelOrPackage, VersionIfModel, located
from tidegate.cli.options import DEFAULT_STORE, Store
from tidegate.cli.output import Json, show, stderr


def command(
    model: ModelOrPackage,
    version: VersionIfModel = None,
    out: Annotated[Path, typer.Option(help="Directory for Triton's model repository.")] = Path("triton"),
    features_supplied: Annotated[
        bool, typer.Option("--features-supplied", help="A transformer in front of Triton looks up the features.")
    ] = False,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows in one request; Triton refuses more.")] = 1024,
    store: Store = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Write a version, or a package, as a model repository of NVIDIA's Triton, for the serving runtime tidegate-triton."""
    from tidegate.packaging.format.package import read_manifest
    from tidegate.packaging.triton.repository import write_triton_repository

    with stderr.status("Exporting"), located(model, version, store) as (package, facts):
        name = read_manifest(package).name
        write_triton_repository(package, out, features_supplied=features_supplied, max_rows=max_rows)
    what = f"{name} version {facts['version']}" if "version" in facts else name
    show(
        {"name": name, "version": facts.get("version"), "path": str(out.resolve())},
        as_json=as_json,
        render=lambda console: console.print(
            f"[green]exported[/green]  {escape(f'{what} to {out}')}; upload it; storageUri is its address and a '/'",
            soft_wrap=True,
        ),
    )
