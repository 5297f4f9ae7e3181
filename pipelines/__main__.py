"""The command line of the pipelines: `python -m pipelines compile|run|submit|schedule|…`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.kubeflow import cluster_commands, schedule_commands
from pipelines.kubeflow.cluster_commands import NAMES, parameters
from tidegate.cli.main import explain_usage
from tidegate.cli.output import Json, show, stdout
from tidegate.errors import PipelineError, TidegateError
from tidegate.project import load_project

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(cluster_commands.app)
app.add_typer(schedule_commands.app)
_EXAMPLE = Path("examples/flights/tidegate.yaml")
ProjectFile = Annotated[Path, typer.Option("--project", help="The project file.")]


@app.command("compile")
def compile_pipelines(
    image: Annotated[str | None, typer.Option(help="Image of every task, NAME@sha256:…; a placeholder if not given.")] = None,
    project: ProjectFile = _EXAMPLE,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the YAML; WORKSPACE/compiled, and for the example pipelines/compiled.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile every pipeline to Kubeflow's IR, for `project` and `image`."""
    from pipelines.compilation import compile_all

    chosen = {} if image is None else {"image": image}
    folder = out or (Path("pipelines/compiled") if project == _EXAMPLE else load_project(project).paths.workspace / "compiled")
    written = compile_all(project_file=project, out=folder, **chosen)
    show([str(path) for path in written], as_json=as_json, render=lambda console: console.print(*written, sep="\n"))


@app.command()
def run(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")],
    local: Annotated[bool, typer.Option("--local", help="On this machine, through kfp.local.")] = False,
    project: ProjectFile = _EXAMPLE,
    param: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, a pipeline parameter; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Run a pipeline to its end and say how it went."""
    from pipelines.kubeflow.progress import TaskProgress
    from pipelines.launcher import LocalLauncher

    if not local:
        raise PipelineError("run: add --local to run on this machine; `submit` runs a pipeline in Kubeflow Pipelines")
    if name not in NAMES:
        raise PipelineError(f"run: there is no pipeline {name!r}; choose one of {', '.join(NAMES)}")
    described = load_project(project)
    arguments = {
        "project_file": str(described.file),
        "project_digest": described.digest,
        "target": "local",
        **parameters(param or []),
    }
    _check_arguments(name, arguments)
    launcher = LocalLauncher(described.paths.workspace)
    with TaskProgress(name) as progress:
        result = launcher.run(name, arguments, on_event=progress.task)
    if not result.succeeded:
        raise PipelineError(f"pipeline {name} failed: {result.cause}; the log is {result.log}")
    facts = {"pipeline": name, "seconds": round(result.seconds, 1), "log": str(result.log), "artifacts": str(result.artifacts)}
    show(
        facts,
        as_json=as_json,
        render=lambda _: stdout.print(f"{name} succeeded in {result.seconds:.1f} s; {result.artifacts}", soft_wrap=True),
    )


def _check_arguments(name: str, arguments: dict[str, str]) -> None:
    from pipelines.catalog import PIPELINES

    inputs = PIPELINES[name].component_spec.inputs
    for given in arguments:
        if given not in inputs:
            raise PipelineError(f"--param {given}: pipeline {name} has no such parameter; it has {', '.join(inputs)}")
    for needed, described in inputs.items():
        if not described.optional and needed not in arguments:
            raise PipelineError(f"pipeline {name} needs the parameter {needed}; give it by --param {needed}=VALUE")


def main() -> None:
    """Run the command line; an expected failure is one line on stderr and exit status 1, a usage error status 2."""
    try:
        status = app(prog_name="python -m pipelines", standalone_mode=False)
    except typer.TyperException as error:
        explain_usage(error)
        raise SystemExit(error.exit_code) from None
    except TidegateError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        raise SystemExit(1) from None
    except (KeyboardInterrupt, typer.Abort):
        raise SystemExit(130) from None
    raise SystemExit(status or 0)


if __name__ == "__main__":
    main()
