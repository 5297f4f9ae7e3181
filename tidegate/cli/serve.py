"""`tidegate serve`: serve a model package over the Open Inference Protocol.

Its options are the settings of the model server, made from their descriptions.
"""

import inspect
from typing import Annotated, Any

import typer

from tidegate.errors import ServingError
from tidegate.serving.server import serve
from tidegate.serving.settings import ServeSettings, Setting, settings


def command(**values: Any) -> None:
    """Serve a model package until SIGTERM: REST and /metrics on one port, gRPC on another."""
    redact = values["log_redact"] or ""
    try:
        chosen = ServeSettings(**{**values, "log_redact": tuple(part.strip() for part in redact.split(",") if part.strip())})
    except ServingError as error:
        raise typer.BadParameter(str(error)) from None
    serve(chosen)


def _parameter(setting: Setting) -> inspect.Parameter:
    about = setting.about
    if setting.name == "package":
        return _keyword(setting.name, Annotated[str, typer.Argument(help=about.help)], inspect.Parameter.empty)
    of_text = setting.kind == tuple[str, ...]
    option = typer.Option(
        setting.option,
        envvar=setting.variable,
        help=about.help,
        rich_help_panel=about.group,
        min=about.at_least,
        max=about.at_most,
    )
    kind = str | None if of_text else setting.kind
    return _keyword(setting.name, Annotated[kind, option], None if of_text else setting.default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_PARAMETERS = [_parameter(setting) for setting in settings()]
command.__signature__ = inspect.Signature(_PARAMETERS)  # type: ignore[attr-defined]  # Typer reads it and the annotations
command.__annotations__ = {parameter.name: parameter.annotation for parameter in _PARAMETERS}
