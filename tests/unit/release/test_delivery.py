"""What a revision's model server is told."""

from pathlib import Path

import pytest
import typer

from tidegate.cli.serve import command as serve
from tidegate.errors import FeatureError, ProjectError
from tidegate.features.address import online_store_address
from tidegate.project import Project, load_project
from tidegate.release.delivery import serving_environment


@pytest.fixture
def repository(project) -> Path:
    folder = project.paths.repository
    folder.mkdir()
    (folder / "feature_store.yaml").write_text("online_store: {path: '${TIDEGATE_WORKSPACE}/features/online.db'}\n")
    return folder


def test_environment_holds_the_project_s_settings(project, repository):
    environment = serving_environment(project, clock="replay:/clock")

    assert environment == {
        "TIDEGATE_NAME": "flights-late",
        "TIDEGATE_WORKERS": "2",
        "TIDEGATE_ONLINE_STORE": f"sqlite://{project.paths.workspace}/features/online.db",
        "TIDEGATE_LOG_STORE": project.store_uri,
        "TIDEGATE_CLOCK": "replay:/clock",
        "TIDEGATE_MAX_ROWS": "1024",
        "TIDEGATE_MAX_BODY_BYTES": "4194304",
        "TIDEGATE_LOG_ROTATE_ROWS": "1000",
        "TIDEGATE_LOG_ROTATE_SECONDS": "5.0",
        "TIDEGATE_LOG_QUEUE_ROWS": "50000",
    }


@pytest.fixture
def on_cluster(tmp_path, project_text):
    """Open the project for a cluster whose section ends with the given lines."""

    def open_project(*lines: str) -> Project:
        cluster = "\n".join(["cluster:", "  store: s3://models/flights", *[f"  {line}" for line in lines]])
        (tmp_path / "cluster.yaml").write_text(f"{project_text}\n{cluster}\n")
        return load_project(tmp_path / "cluster.yaml", target="kserve")

    return open_project


def test_environment_on_a_cluster_names_what_every_pod_reaches(on_cluster):
    environment = serving_environment(on_cluster("online_store: rediss://redis.features:6380/1"), clock="wall")

    assert environment["TIDEGATE_ONLINE_STORE"] == "rediss://redis.features:6380/1"
    assert environment["TIDEGATE_LOG_STORE"] == "s3://models/flights"


def test_a_cluster_without_an_online_store_is_one_error(on_cluster):
    with pytest.raises(ProjectError, match=r"cluster\.yaml: cluster\.online_store: required, .* 'flights_v1' .*; name a Redis"):
        serving_environment(on_cluster(), clock="wall")


def test_model_server_reads_every_setting(project, repository):
    app = typer.Typer()
    app.command()(serve)
    read = {parameter.envvar for parameter in typer.main.get_command(app).params}

    assert serving_environment(project, clock="wall").keys() <= read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "No such file or directory; name a Feast repository folder", id="missing"),
        pytest.param("project: a", "online_store.path: 'online_store'; the model server needs it", id="no-online-store"),
        pytest.param("online_store: {connection_string: null}", "online_store.path: 'path'", id="neither"),
        pytest.param("online_store: {type: sqlite}", "online_store.path: 'path'", id="no-path"),
        pytest.param("online_store: sqlite", "online_store.path: string indices", id="online-store-is-text"),
        pytest.param("a: [", "online_store.path: while parsing", id="not-yaml"),
        pytest.param(b"\xff\xfe\xfd", "can't decode byte 0xff", id="not-text"),
    ],
)
def test_repository_without_an_online_store_is_one_error(project, repository, text, message):
    file = repository / "feature_store.yaml"
    file.unlink()
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(FeatureError, match=r"feature_store\.yaml: ") as caught:
        online_store_address(repository, project.paths.workspace)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
