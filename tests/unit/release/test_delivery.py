"""What a revision's model server is told."""

from pathlib import Path

import pytest
import typer
import yaml

from tidegate.cli import serve as serve_command
from tidegate.cli.main import run
from tidegate.errors import FeatureError, ProjectError
from tidegate.features.address import online_store_address
from tidegate.project import Project, load_project
from tidegate.release.delivery import serving_environment, serving_settings
from tidegate.serving.settings import ServeSettings, settings


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
        "TIDEGATE_LOG_ROTATE_ROWS": "1000",
    }, "what is as the server does it anyway is left out"


DECIDED = {
    "serving": {
        "workers": 4,
        "max_rows": 10,
        "max_body_bytes": 2048,
        "gpu_memory_bytes": 4_000_000_000,
        "max_connections": 5,
        "request_seconds": 1.5,
        "read_seconds": 2.0,
        "idle_seconds": 600.0,
        "drain_seconds": 3.0,
        "batching": {"rows": 8, "delay_ms": 0.5, "queue_rows": 100},
        "log": {
            "mode": "audit",
            "sample": 1.0,
            "redact": ["tail", "carrier:hash"],
            "rotate_rows": 7,
            "rotate_seconds": 1.0,
            "queue_rows": 9,
        },
        "access_log": "all",
        "traces": 0.25,
        "allow_cpu_fallback": True,
    }
}


def test_everything_that_a_project_can_decide_reaches_the_server(tmp_path, project_text, project, repository, monkeypatch):
    file = tmp_path / "decided.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(project_text) | DECIDED))
    decided = load_project(file)
    for variable, value in serving_environment(decided, clock="at:2013-01-01T00:00:00+00:00").items():
        monkeypatch.setenv(variable, value)
    served: list[ServeSettings] = []
    monkeypatch.setattr(serve_command, "serve", served.append)

    with pytest.raises(SystemExit):
        run(["serve", "package"])

    assert served == [ServeSettings(package="package", **serving_settings(decided, clock="at:2013-01-01T00:00:00+00:00"))]
    undecided = {"package", "version", "revision", "repository", "host", "http_port", "grpc_port", "verify_key", "log_sample"}
    as_by_default = {setting.name for setting in settings() if getattr(served[0], setting.name) == setting.default}
    assert as_by_default | {"package"} == undecided | {"drain_delay_seconds"}


def test_spans_go_where_the_project_says(tmp_path, project_text, project, repository):
    file = tmp_path / "traced.yaml"
    serving = {"serving": {"traces": "parent", "traces_to": "http://collector:4318"}}
    file.write_text(yaml.safe_dump(yaml.safe_load(project_text) | serving))

    environment = serving_environment(load_project(file), clock="wall")

    assert (environment["TIDEGATE_TRACES"], environment["OTEL_EXPORTER_OTLP_ENDPOINT"]) == ("parent", "http://collector:4318")


def test_what_a_project_leaves_out_is_as_the_server_does_it(tmp_path, project_text, project, repository):
    file = tmp_path / "silent.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(project_text) | {"serving": {}}))

    environment = serving_environment(load_project(file), clock="wall")

    assert environment.keys() == {"TIDEGATE_NAME", "TIDEGATE_ONLINE_STORE", "TIDEGATE_LOG_STORE"}


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


def test_on_an_accelerator_there_is_one_worker(on_cluster):
    gpu = "serving: {runtime: tidegate-onnx-gpu, accelerator: {}}"
    project = on_cluster("online_store: redis://redis.features:6379/0", gpu)

    assert project.serving.workers == 2
    assert serving_settings(project, clock="wall")["workers"] == 1
    assert "TIDEGATE_WORKERS" not in serving_environment(project, clock="wall")


def test_a_cluster_without_an_online_store_is_one_error(on_cluster):
    with pytest.raises(ProjectError, match=r"cluster\.yaml: cluster\.online_store: required, .* 'flights_v1' .*; name a Redis"):
        serving_environment(on_cluster(), clock="wall")


def test_model_server_reads_every_setting(project, repository):
    app = typer.Typer()
    app.command()(serve_command.command)
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
