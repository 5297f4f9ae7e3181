"""Ctrl-C while a run in Kubeflow Pipelines is followed: a real process, a real SIGINT, a server that scripts the run."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kfp_api.api import KfpApi, Outage
from tests.kfp_api.server import serving

REPOSITORY = Path(__file__).parents[3]
IMAGE = f"registry.example.com/flights@sha256:{'1' * 64}"


def start(url: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines", *arguments, "--host", url],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.startswith("KF_PIPELINES_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    return process.returncode, err


def test_run_goes_on_and_how_to_see_and_end_it_is_said():
    server = KfpApi(progress=[{"state": "RUNNING"}])
    with serving(server) as url:
        process = start(url, "submit", "drift", "--image", IMAGE)
        try:
            wait_until(lambda: any(re.fullmatch(r"GET /apis/v2beta1/runs/[^/]+", request) for request in server.requests))
            time.sleep(0.3)
            status, err = interrupt(process)
        finally:
            process.kill()

        (run,) = server.runs.values()
        assert status == 130
        assert run["state"] == "RUNNING"
        told = err.splitlines()[-1]
        assert told.startswith(f"interrupted; the run goes on in the cluster: {url}/#/runs/details/{run['run_id']}")
        assert f"python -m pipelines follow {run['run_id']} --host {url}" in told
        assert f"python -m pipelines terminate {run['run_id']} --host {url}" in told
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "path", "told"),
    [
        pytest.param(
            ["submit", "drift", "--image", IMAGE],
            "POST /apis/v2beta1/runs",
            "whether the run was started is not known",
            id="submit",
        ),
        pytest.param(
            ["schedule", "drift", "--image", IMAGE, "--cron", "@daily"],
            "POST /apis/v2beta1/recurringruns",
            "the same command finishes what was begun",
            id="schedule",
        ),
    ],
)
def test_request_that_is_under_way_is_said_to_be(arguments, path, told):
    slow = Outage("slow", times=99, seconds=60.0, when=lambda method, asked: f"{method} {asked}" == path)
    server = KfpApi(outages=[slow])
    with serving(server) as url:
        process = start(url, *arguments)
        try:
            wait_until(lambda: path in server.requests)
            status, err = interrupt(process)
        finally:
            process.kill()

    assert status == 130
    assert told in err.splitlines()[-1]
    assert "Traceback" not in err
