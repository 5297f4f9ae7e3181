"""`tidegate serve`: every option, also by environment variable, reaches the settings."""

import re
from typing import Any

import pytest

from tidegate.cli import serve as serve_command
from tidegate.cli.main import run
from tidegate.errors import ServingError
from tidegate.serving.settings import ServeSettings, settings

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
    "DRAIN_DELAY_SECONDS": "1",
    "REPOSITORY": "s3://models",
    "GPU_MEMORY_BYTES": "4000000000",
    "MAX_CONNECTIONS": "40",
    "REQUEST_SECONDS": "0.5",
    "READ_SECONDS": "3",
    "IDLE_SECONDS": "61",
    "BATCH_ROWS": "1",
    "BATCH_DELAY_MS": "2",
    "QUEUE_ROWS": "50",
    "LOG_MODE": "audit",
    "LOG_SAMPLE": "0.25",
    "LOG_REDACT": "carrier, tail:hash",
    "VERIFY_KEY": "key.pub",
    "ACCESS_LOG": "errors",
    "TRACES": "0.01",
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
    log_rotate_rows=10,
    log_rotate_seconds=1.5,
    log_queue_rows=20,
    max_rows=30,
    max_body_bytes=2048,
    drain_seconds=2.5,
    drain_delay_seconds=1,
    repository="s3://models",
    gpu_memory_bytes=4_000_000_000,
    max_connections=40,
    request_seconds=0.5,
    read_seconds=3,
    idle_seconds=61,
    batch_rows=1,
    batch_delay_ms=2,
    queue_rows=50,
    log_mode="audit",
    log_sample=0.25,
    log_redact=("carrier", "tail:hash"),
    verify_key="key.pub",
    allow_cpu_fallback=True,
    access_log="errors",
    traces="0.01",
)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    settings: list[ServeSettings] = []
    monkeypatch.setattr(serve_command, "serve", settings.append)
    return settings


def test_options(served: list[ServeSettings]) -> None:
    options = [part for name, value in OPTIONS.items() for part in (f"--{name.lower().replace('_', '-')}", value)]
    options.append("--allow-cpu-fallback")
    with pytest.raises(SystemExit) as ended:
        run(["serve", "pkg", *options])
    assert ended.value.code == 0
    assert served == [EXPECTED]


def test_environment_variables(served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OPTIONS.items():
        monkeypatch.setenv(f"TIDEGATE_{name}", value)
    monkeypatch.setenv("TIDEGATE_ALLOW_CPU_FALLBACK", "true")
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
        pytest.param(["--request-seconds", "0"], id="no time to answer"),
        pytest.param(["--request-seconds", "nan"], id="a time that is no number"),
        pytest.param(["--log-mode", "sometimes"], id="unknown mode of the log"),
        pytest.param(["--log-sample", "0"], id="a log of nothing"),
        pytest.param(["--log-sample", "1.5"], id="more than every request"),
        pytest.param(["--access-log", "some"], id="unknown access log"),
        pytest.param(["--traces", "some"], id="traces neither off nor parent nor a share"),
        pytest.param(["--traces", "0"], id="a share of no traces"),
    ],
)
def test_a_value_out_of_bounds_is_a_usage_error(served: list[ServeSettings], options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["serve", "pkg", *options])
    assert ended.value.code == 2
    assert served == []


def test_every_setting_is_an_option_that_is_tested() -> None:
    tested = {f"TIDEGATE_{name}" for name in (*OPTIONS, "PACKAGE", "ALLOW_CPU_FALLBACK")}
    assert {setting.variable for setting in settings()} == tested


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param({"workers": 0}, "workers: 0: must be at least 1", id="too few"),
        pytest.param({"http_port": 70_000}, "http_port: 70000: must be at most 65535", id="too many"),
        pytest.param({"log_sample": float("nan")}, "log_sample: nan: must be at least 0.0001", id="no number"),
        pytest.param({"log_mode": "never"}, "log_mode: 'never': must be one of async, audit", id="unknown word"),
        pytest.param({"traces": "1.5"}, "traces: '1.5': is neither off, nor parent, nor a share", id="no share"),
    ],
)
def test_settings_made_in_python_are_checked_too(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ServingError, match=re.escape(message)):
        ServeSettings(package="pkg", **values)


def test_the_help_shows_every_option_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["serve", "--help"])
    shown = capsys.readouterr().out
    for setting in settings():
        assert setting.about.group in shown or setting.name == "package"
        assert setting.option in shown or setting.name == "package"
