"""The Launcher on a cluster: submits a pipeline to Kubeflow Pipelines and follows it to its end.

launcher = ClusterLauncher(Submitter(api, namespace="team"), project_file=Path("tidegate.yaml"), image="…@sha256:…")
launcher.run("release", {"reason": "new airline"}, on_event=print)
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from pipelines.kubeflow.following import follow
from pipelines.kubeflow.submission import Submitted, Submitter, compiled_pipeline
from pipelines.launcher import RunResult, TaskEvent


class ClusterLauncher:
    """Runs a project's pipelines in Kubeflow Pipelines."""

    def __init__(
        self,
        submitter: Submitter,
        *,
        project_file: Path,
        image: str,
        experiment: str | None = None,
        timeout_seconds: float | None = None,
        on_started: Callable[[Submitted], None] = lambda _: None,
        on_outage: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Submit through `submitter`.

        Args:
            submitter: Uploads and starts.
            project_file: The project file, as it lies in the image.
            image: `NAME@sha256:…`, for every task.
            experiment: Name of the experiment; the project's name if not given.
            timeout_seconds: How long a run is followed at most; without, to its end.
            on_started: Told of the run as soon as it is started.
            on_outage: Told when the connection is lost while following.
        """
        self._submitter = submitter
        self._project_file = project_file
        self._image = image
        self._experiment = experiment
        self._timeout = timeout_seconds
        self._on_started = on_started
        self._on_outage = on_outage

    def run(
        self, pipeline: str, arguments: Mapping[str, str], *, on_event: Callable[[TaskEvent], None] | None = None
    ) -> RunResult:
        """Run a pipeline to its end; see `Launcher.run`. Raises StillRunning if it is followed no longer."""
        compiled = compiled_pipeline(pipeline=pipeline, project_file=self._project_file, image=self._image)
        submitted = self._submitter.start(compiled, arguments, experiment=self._experiment)
        self._on_started(submitted)
        outcome = follow(
            self._submitter.api,
            submitted.run_id,
            on_event=on_event or (lambda _: None),
            on_outage=self._on_outage,
            timeout_seconds=self._timeout,
        )
        return RunResult(
            succeeded=outcome.succeeded,
            seconds=outcome.seconds,
            log=submitted.link,
            artifacts=submitted.link,
            cause=outcome.cause,
            events=outcome.events,
        )
