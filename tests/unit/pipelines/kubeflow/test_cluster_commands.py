"""`python -m pipelines submit|follow|terminate|schedule|…`: what they print, exit with, and never print."""

import json
import sys
from pathlib import Path

import pytest

from pipelines import __main__ as command_line
from pipelines.kubeflow import authentication
from pipelines.kubeflow.client import KubeflowPipelines
from pipelines.kubeflow.following import follow
from pipelines.kubeflow.submission import CompiledPipeline
from tests.kfp_api.api import KfpApi, Outage
from tests.kfp_api.server import serving
from tests.unit.pipelines.conftest import GIVEN, IMAGE

PROJECT = Path(__file__).parents[4] / "examples/flights/tidegate.yaml"
START = ("--param", f"start={GIVEN['start']}")
SECRET = "s3cr3t-t0ken"


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path, compiled):
    """Not really compiled, and asked at once; credentials of the machine stay out of it."""

    def compile_quickly(*, pipeline: str, project_file: Path, image: str) -> CompiledPipeline:
        return compiled(image=image)

    monkeypatch.setattr("pipelines.kubeflow.submission.compiled_pipeline", compile_quickly)
    monkeypatch.setattr(follow, "__kwdefaults__", follow.__kwdefaults__ | {"poll_seconds": 0.01})
    monkeypatch.setattr(authentication, "SERVICE_ACCOUNT_TOKEN", tmp_path / "none")
    for kind in ("TOKEN", "TOKEN_FILE", "COOKIE", "USERNAME", "SA_TOKEN_PATH", "ENDPOINT", "UI_ENDPOINT"):
        monkeypatch.delenv(f"KF_PIPELINES_{kind}", raising=False)


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pipelines", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        captured = capsys.readouterr()
        return int(ended.value.code), captured.out, captured.err

    return call


@pytest.fixture
def server(monkeypatch):
    api = KfpApi()
    with serving(api) as url:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", url)
        yield api


def ends(state: str, **error: object) -> list[dict]:
    task = {"task_id": "1", "display_name": "check-drift", "state": state, "error": error or None}
    return [{"state": "RUNNING"}, {"state": state, "run_details": {"task_details": [task]}}]


def test_run_that_succeeds_ends_with_0_and_its_link(server, command):
    server.progress = ends("SUCCEEDED")

    status, out, err = command("submit", "drift", "--image", IMAGE, *START)

    (run,) = server.runs.values()
    assert status == 0
    assert f"{run['display_name']} succeeded in " in out
    assert f"/#/runs/details/{run['run_id']}" in out
    assert "✓ check-drift" in err
    assert f"version {next(iter(server.versions.values()))['name']} uploaded\n" in err


def test_run_that_fails_ends_with_1_and_the_tasks_error(server, command):
    server.progress = ends("FAILED", message="no window")

    status, out, err = command("submit", "drift", "--image", IMAGE, *START, "--json")

    told = json.loads(out)
    assert status == 1
    assert (told["state"], told["cause"], told["uploaded"]) == ("failed", "check-drift: no window", True)
    assert err.splitlines()[-1].startswith(f"error: {told['name']} failed: check-drift: no window; http://")
    assert "✗ check-drift" in err
    assert "" not in err.splitlines(), "no terminal, so nothing that moves and leaves empty lines"


def test_run_that_was_terminated_ends_with_1(server, command):
    server.progress = [{"state": "RUNNING"}]
    command("submit", "drift", "--image", IMAGE, *START, "--no-follow")
    (run,) = server.runs

    assert command("terminate", run)[:2] == (0, f"run {run} is being terminated\n")
    status, _, err = command("follow", run)

    assert status == 1
    assert "was terminated: it was terminated" in err


def test_run_that_is_not_followed_is_told_and_followed_later(server, command):
    status, out, _ = command("submit", "drift", "--image", IMAGE, *START, "--no-follow", "--json")
    told = json.loads(out)
    assert (status, told["state"], told["run"]) == (0, "started", next(iter(server.runs)))
    server.progress = ends("SUCCEEDED")

    status, out, _ = command("follow", told["run"], "--json")

    assert (status, json.loads(out)["state"]) == (0, "succeeded")


def test_timeout_ends_with_1_and_says_that_the_run_goes_on(server, command):
    server.progress = [{"state": "RUNNING"}]

    status, _, err = command("submit", "drift", "--image", IMAGE, *START, "--timeout", "1")

    assert status == 1
    assert "has not ended within 1 s; it goes on" in err.splitlines()[-1]


def test_schedule_is_made_left_alone_replaced_paused_listed_and_ended(server, command):
    schedule = ("schedule", "drift", "--image", IMAGE, *START)

    status, out, err = command(*schedule, "--cron", "0 6 * * *")
    assert (status, out.startswith("schedule flights-late-drift: created; enabled, '0 0 6 * * *'")) == (0, True)
    assert "cron '0 6 * * *' is kept as '0 0 6 * * *': second, minute, hour" in err
    assert "unchanged" in command(*schedule, "--cron", "0 0 6 * * *")[1]
    assert "replaced; enabled, '0 0 7 * * *'" in command(*schedule, "--cron", "0 7 * * *", "--catch-up")[1]
    assert "paused; paused" in command("pause", "drift")[1]

    listed = command("schedules")[1]
    assert "flights-late-drift  paused  0 0 7 * * *  makes up for missed runs" in listed
    assert f"image {IMAGE}" in listed
    told = json.loads(command("schedules", "--json")[1])
    assert [(one["state"], one["catch_up"], one["image"]) for one in told] == [("paused", True, IMAGE)]

    assert "resumed; enabled" in command("resume", "drift")[1]
    run = server.fire(next(iter(server.recurring)), "SUCCEEDED")
    assert "succeeded  http://127.0.0.1" in (shown := command("history", "drift")[1])
    assert run in shown
    assert json.loads(command("history", "drift", "--json")[1])[0]["state"] == "succeeded"
    assert command("unschedule", "drift")[1] == "schedule flights-late-drift: removed\n"
    assert server.recurring == {}
    assert command("schedules")[1] == "flights-late has no schedules\n"


def test_new_image_is_a_new_version_and_the_schedule_runs_it(server, command):
    schedule = ("schedule", "drift", *START, "--cron", "@daily", "--json")
    first = json.loads(command(*schedule, "--image", IMAGE)[1])["schedule"]
    other = IMAGE.replace("1", "2")

    assert json.loads(command(*schedule, "--image", other)[1])["schedule"]["image"] == other
    assert first["recurring_run"] not in server.recurring


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        pytest.param(["submit", "drift", "--image", IMAGE], 1, "needs the parameter start", id="parameter"),
        pytest.param(["submit", "drift", *START], 2, "Missing option '--image'", id="no-image"),
        pytest.param(["submit", "drift", "--image", IMAGE, *START, "--timeout", "0"], 2, "--timeout", id="timeout-0"),
        pytest.param(["schedule", "drift", "--image", IMAGE, "--cron", "6am"], 1, "cron '6am': has 1 fields", id="cron"),
        pytest.param(["schedule", "drift", "--image", IMAGE], 2, "Missing option '--cron'", id="no-cron"),
        pytest.param(["pause", "drift"], 1, "there is no schedule flights-late-drift", id="no-schedule"),
        pytest.param(["history", "drift", "--limit", "0"], 2, "--limit", id="limit-0"),
        pytest.param(["follow", "none"], 1, "none not found (HTTP 404)", id="no-run"),
        pytest.param(["terminate", "none", "--host", "kubeflow"], 1, "--host 'kubeflow': expected", id="host"),
        pytest.param(["terminate", "none", "--host", "http://me:hunter2@x"], 1, "--host: holds credentials", id="credentials"),
    ],
)
def test_mistake_is_one_line(server, command, arguments, status, message):
    ended, out, err = command(*arguments)

    assert (ended, out) == (status, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert message in err
    assert "hunter2" not in err
    assert server.runs == {}


def test_missing_host_names_the_option(command):
    assert command("terminate", "x")[2].startswith("error: Missing option '--host'")


@pytest.mark.parametrize("arguments", [["submit", "drift", "--image", IMAGE, *START], ["schedules"], ["follow", "1"]])
@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({"KF_PIPELINES_TOKEN": SECRET}, id="token"),
        pytest.param({"KF_PIPELINES_COOKIE": f"session={SECRET}"}, id="cookie"),
        pytest.param({"KF_PIPELINES_USERNAME": "me", "KF_PIPELINES_PASSWORD": SECRET}, id="password"),
    ],
)
def test_secret_is_never_printed_also_not_by_a_server_that_echoes_it(server, command, monkeypatch, arguments, variables):
    server.tokens, server.echo_credentials = {"other"}, True
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    status, out, err = command(*arguments)

    assert status == 1
    assert SECRET not in out + err
    assert "not authenticated" in err or "log in" in err


def test_lost_connection_says_that_the_same_command_finishes(server, command, monkeypatch):
    patient = KubeflowPipelines.__init__.__kwdefaults__
    monkeypatch.setattr(KubeflowPipelines.__init__, "__kwdefaults__", patient | {"patience_seconds": 0.0})
    server.outages = [Outage("drop", times=99, when=lambda _, path: "recurringruns" in path)]

    status, _, err = command("schedule", "drift", "--image", IMAGE, *START, "--cron", "@daily")

    assert status == 1
    assert "the connection broke" in err
    assert err.endswith("; the same command finishes what was begun\n")
