"""The `tidegate` command. A command's module is imported only when that command runs, so that start-up stays light."""

import importlib
import sys
from typing import Annotated

import typer

import tidegate
from tidegate.errors import TidegateError

# Each module holds either `app`, a typer.Typer with subcommands, or `command`, a function; last, the extras it needs.
_COMMANDS = {
    "package": ("tidegate.cli.package", "Package a source model as ONNX, with signature and golden sample.", "cpu,training"),
    "optimize": ("tidegate.cli.optimize", "Build variants of a package, gate them, and keep the best.", "cpu,training"),
    "serve": ("tidegate.cli.serve", "Serve a model package over the Open Inference Protocol.", "cpu,serving"),
    "models": ("tidegate.cli.models", "List, show, verify, promote and roll back registered models.", ""),
    "rollout": ("tidegate.cli.rollout", "Start, watch, promote and abort rollouts.", "local"),
    "service": ("tidegate.cli.service", "Show what runs, and the document that a version is deployed by.", "local"),
    "local": ("tidegate.cli.local", "Run InferenceServices on this machine.", "local"),
    "drift": ("tidegate.cli.drift", "Check for drift, and list earlier checks.", "monitoring"),
    "doctor": ("tidegate.cli.doctor", "Say what is missing: here, for a project, on its cluster.", ""),
    "project": ("tidegate.cli.project", "Check a project file, or print its JSON Schema.", ""),
}
_NEED_NO_ARGUMENTS = {"doctor"}


def run(arguments: list[str] | None = None) -> None:
    """Run the command line; an expected failure is one line on stderr and exit status 1, a usage error status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    wanted = arguments[0] if arguments else None
    try:
        status = _build_app(wanted=wanted)(args=arguments, prog_name="tidegate", standalone_mode=False)
    except typer.TyperException as error:
        explain_usage(error)
        raise SystemExit(error.exit_code) from None
    except TidegateError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        if wanted not in _COMMANDS or (error.name or "tidegate").startswith("tidegate"):
            raise
        sys.stderr.write(f"error: tidegate {wanted} needs the module {error.name}, which is not installed; {_remedy(wanted)}\n")
        raise SystemExit(1) from None
    except (KeyboardInterrupt, typer.Abort):
        raise SystemExit(130) from None
    raise SystemExit(status or 0)


def _remedy(command: str) -> str:
    _, _, extras = _COMMANDS[command]
    return f"pip install 'tidegate[{extras}]'" if extras else "reinstall tidegate"


def explain_usage(error: typer.TyperException) -> None:
    """Say on stderr, in one line, what was wrong with a command line."""
    message = " ".join(error.format_message().split())
    if message:  # a command without arguments has shown its help, and that is all there is to say
        context = getattr(error, "ctx", None)
        hint = f"; see '{context.command_path} --help'" if context else ""
        sys.stderr.write(f"error: {message.rstrip('.')}{hint}\n")


def _build_app(*, wanted: str | None) -> typer.Typer:
    app = typer.Typer(
        callback=_options,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Take trained models to guarded, fast, self-renewing production endpoints.",
    )
    for name, (module, line, _) in _COMMANDS.items():
        if name != wanted:
            app.command(name, help=line)(_listed_only)
            continue
        loaded = importlib.import_module(module)
        if hasattr(loaded, "app"):
            app.add_typer(loaded.app, name=name, help=line, no_args_is_help=True)
        else:
            app.command(name, help=line, no_args_is_help=name not in _NEED_NO_ARGUMENTS)(loaded.command)
    return app


def _listed_only() -> None:
    raise AssertionError("a command that was not asked for never runs")


def _print_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"tidegate {tidegate.__version__}\n")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
