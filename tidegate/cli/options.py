"""Options that several commands share."""

from typing import Annotated

import typer

Where = Annotated[
    str,
    typer.Option(
        "--target", envvar="TIDEGATE_TARGET", help="Where the project runs: local, or kserve as its cluster section says."
    ),
]

Store = Annotated[
    str, typer.Option("--store", envvar="TIDEGATE_STORE", help="The registry's object store: a folder, or s3://bucket/prefix.")
]
Name = Annotated[str, typer.Argument(help="The model.")]
Version = Annotated[str, typer.Argument(help="A version's number, or an alias.")]
DEFAULT_STORE = ".tidegate/store"
