"""Component: bring the online store up to now, open the release's record, and fix the event time of the release."""

from components.step import step


@step
def materialize_features(project_file: str, project_digest: str, target: str, clock: str, reason: str, release_id: str) -> str:
    from tidegate.clock import open_clock
    from tidegate.project import load_project
    from tidegate.release.data import begin_release
    from tidegate.release.data import materialize_features as materialize

    project = load_project(project_file, digest=project_digest, target=target)
    until = open_clock(clock).now()
    begin_release(project, release_id=release_id, event_time=until, reason=reason)
    materialize(project, until, live=clock == "wall")
    return until.isoformat()
