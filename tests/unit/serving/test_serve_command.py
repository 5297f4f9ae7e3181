"""`tidegate serve`: every option, also by environment variable, reaches the settings."""

import pytest

from tidegate.cli import serve as serve_command
from tidegate.cli.main import run
from tidegate.serving.inference_log.log import LogLimits
from tidegate.serving.settings import ServeSettings

OPTIONS = {
    "NAME": "flights",
    "HTTP_PORT": "9001",
    "GRPC_PORT": "0",
    "WORKERS": "3",
    "VERSION": "7",
    "REVISION": "canary",
    "ONLINE_STORE": "sqlite:///o.db",
    "LOG_STORE": "s3://logs/here",
    "CLOCK": "replay:/clock",
    "HOST": "0.0.0.0",
    "LOG_ROTATE_ROWS": "10",
    "LOG_ROTATE_SECONDS": "1.5",
    "LOG_QUEUE_ROWS": "20",
    "MAX_ROWS": "30",
    "MAX_BODY_BYTES": "2048",
    "DRAIN_SECONDS": "2.5",
}
EXPECTED = ServeSettings(
    package="pkg",
    name="flights",
    http_port=9001,
    grpc_port=0,
    workers=3,
    version="7",
    revision="canary",
    online_store="sqlite:///o.db",
    log_store="s3://logs/here",
    clock="replay:/clock",
    host="0.0.0.0",
    log_limits=LogLimits(rotate_rows=10, rotate_seconds=1.5, queue_rows=20),
    max_rows=30,
    max_body_bytes=2048,
    drain_seconds=2.5,
)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    settings: list[ServeSettings] = []
    monkeypatch.setattr(serve_command, "serve", settings.append)
    return settings


def test_options(served: list[ServeSettings]) -> None:
    options = [part for name, value in OPTIONS.items() for part in (f"--{name.lower().replace('_', '-')}", value)]
    with pytest.raises(SystemExit) as ended:
        run(["serve", "pkg", *options])
    assert ended.value.code == 0
    assert served == [EXPECTED]


def test_environment_variables(served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OPTIONS.items():
        monkeypatch.setenv(f"TIDEGATE_{name}", value)
    with pytest.raises(SystemExit):
        run(["serve", "pkg"])
    assert served == [EXPECTED]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--http-port", "0"], id="no port"),
        pytest.param(["--http-port", "70000"], id="port beyond"),
        pytest.param(["--workers", "0"], id="no workers"),
        pytest.param(["--log-queue-rows", "0"], id="no queue"),
    ],
)
def test_a_value_out_of_bounds_is_a_usage_error(served: list[ServeSettings], options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["serve", "pkg", *options])
    assert ended.value.code == 2
    assert served == []
