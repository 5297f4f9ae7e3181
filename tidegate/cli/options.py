"""Options that several commands share."""

from typing import Annotated

import typer

Where = Annotated[
    str,
    typer.Option(
        "--target", envvar="TIDEGATE_TARGET", help="Where the project runs: local, or kserve as its cluster section says."
    ),
]
