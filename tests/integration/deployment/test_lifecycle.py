"""The supervisor's life: restarts, crashes, corrupt state, and that nothing outlives it."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from tidegate.deployment.inference_service import Service
from tidegate.errors import DeploymentError

TIMEOUT = 30


def deploy(local, name="flights", mode="ok"):
    local.target.apply(Service(name, "default", local.revision("v1", mode)))
    return local.target.wait(name, timeout=TIMEOUT)


def test_sigterm_ends_everything(local):
    deploy(local)

    local.process.send_signal(signal.SIGTERM)

    assert local.process.wait(TIMEOUT) == 0
    assert local.processes() == []
    assert not local.target.running()


def test_sigkill_of_the_supervisor_ends_everything(local):
    deploy(local)
    assert len(local.processes()) == 2

    local.process.kill()

    local.eventually(lambda: local.processes() == [], timeout=TIMEOUT)
    assert not local.target.running()
    with pytest.raises(DeploymentError, match="not running; start it with `tidegate local up"):
        local.target.wait("flights", timeout=TIMEOUT)


def test_a_restarted_supervisor_brings_all_up_again_at_the_same_address(local):
    service = Service("flights", "default", local.revision("v1")).with_canary(local.revision("v2"), 100)
    local.target.apply(service)
    url = local.target.wait("flights", timeout=TIMEOUT).url
    local.process.kill()
    local.process.wait()
    local.eventually(lambda: local.processes() == [], timeout=TIMEOUT)

    local.up()

    status = local.target.wait("flights", timeout=TIMEOUT)
    assert (status.url, status.revision("v2").traffic_percent) == (url, 100)
    assert local.send(url, 20) == {(200, "v2"): 20}


def test_what_ignores_its_supervisors_death_is_ended_by_the_next_one(local):
    deploy(local, mode="stubborn")
    local.process.kill()
    local.process.wait()
    left = local.processes()
    assert left
    local.set_mode("v1", "ok")

    local.up()

    assert not set(left) & set(local.processes())
    assert local.target.wait("flights", timeout=TIMEOUT).settled


def test_down_ends_what_a_killed_supervisor_left(local):
    deploy(local, mode="stubborn")
    local.process.kill()
    local.process.wait()
    assert local.processes()

    local.down()

    assert local.processes() == []


def test_a_second_supervisor_is_refused(local):
    second = local.supervise()
    _, error = second.communicate(timeout=TIMEOUT)

    assert second.returncode == 1
    expected = f"a supervisor runs already in {local.workspace} (pid {local.process.pid}); stop it with `tidegate local down`"
    assert error == f"error: {expected}\n"


def test_a_corrupt_document_is_reported_and_the_others_go_on(local):
    deploy(local, "good")
    (local.target.state.services / "bad.json").write_text('{"apiVersion": "serving')
    (local.target.state.services / "wrong.json").write_text(
        '{"metadata": {"name": "wrong", "annotations": {"serving.kserve.io/deploymentMode": "Knative"}},'
        ' "spec": {"predictor": {}}}'
    )
    local.eventually(
        lambda: all(local.target.state.read_status(name) is not None for name in ("bad", "wrong")), timeout=TIMEOUT
    )

    assert "not readable as JSON" in local.target.state.read_status("bad")["reason"]
    assert "'Standard'" in local.target.state.read_status("wrong")["reason"]
    with pytest.raises(DeploymentError, match="not readable as JSON"):
        local.target.get("bad")
    assert local.send(local.target.status("good").url, 10) == {(200, "v1"): 10}
    deploy(local, "other")


def test_a_document_that_turns_corrupt_leaves_the_service_as_it_was(local):
    url = deploy(local).url
    (local.target.state.services / "flights.json").write_text("[]")
    local.eventually(lambda: "not an object" in local.target.state.read_status("flights")["reason"], timeout=TIMEOUT)

    assert local.send(url, 10) == {(200, "v1"): 10}


def test_a_killed_server_is_started_again_and_the_reason_kept_meanwhile(local):
    url = deploy(local).url
    local.set_mode("v1", "exit")
    os.kill(local.pid("flights", "v1"), signal.SIGKILL)

    local.eventually(lambda: "ended with status 1" in local.target.status("flights").revisions[0].reason, timeout=TIMEOUT)
    assert not local.target.status("flights").settled
    local.set_mode("v1", "ok")

    local.eventually(lambda: local.target.status("flights").settled, timeout=TIMEOUT)
    assert local.send(url, 10) == {(200, "v1"): 10}


def test_a_killed_envoy_is_started_again(local):
    url = deploy(local).url
    server = local.pid("flights", "v1")
    (envoy,) = set(local.processes()) - {server}

    os.kill(envoy, signal.SIGKILL)

    local.eventually(lambda: local.processes() not in ([server], []), timeout=TIMEOUT)
    local.eventually(lambda: local.send(url, 1) == {(200, "v1"): 1}, timeout=TIMEOUT)
    assert local.pid("flights", "v1") == server


def test_a_taken_listener_port_is_passed_over(local):
    url = deploy(local).url
    port = int(url.rpartition(":")[2])
    local.process.terminate()
    local.process.wait(TIMEOUT)

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        local.up()
        status = local.target.wait("flights", timeout=TIMEOUT)

        assert status.url != url
        assert local.send(status.url, 10) == {(200, "v1"): 10}


def test_a_listener_port_taken_at_the_last_moment_is_given_up(local):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        local.process.terminate()
        local.process.wait(TIMEOUT)
        (local.target.state.root / "ports.json").write_text(f'{{"listener/flights": {taken}}}')
        other.close()
        local.up()
        with socket.socket() as late:
            late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            late.bind(("127.0.0.1", taken))
            late.listen()

            status = deploy(local)

            assert status.url != f"http://127.0.0.1:{taken}"
            assert local.send(status.url, 10) == {(200, "v1"): 10}


def tidegate(*arguments, env=None):
    return subprocess.run(
        [sys.executable, "-m", "tidegate", "local", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
        check=False,
    )


def test_the_commands(tmp_path):
    workspace = ("--workspace", str(tmp_path))

    up = tidegate("up", "--detach", *workspace)
    again = tidegate("up", "--detach", *workspace)
    status = tidegate("status", *workspace)
    down = tidegate("down", *workspace)
    idle = tidegate("down", *workspace)

    assert re.fullmatch(r"up, pid \d+, log \S+supervisor\.log\n", up.stdout.replace("\n", "", up.stdout.count("\n") - 1))
    assert again.returncode == 1
    assert again.stderr.startswith("error: a supervisor runs already in")
    assert again.stderr.count("\n") == 1
    assert status.stdout.startswith("supervisor: pid ")
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert (idle.returncode, idle.stdout) == (0, "nothing was running\n")


@pytest.mark.parametrize("command", ["up", "down", "status"])
def test_a_workspace_that_is_a_file_is_one_clear_error(tmp_path, command):
    file = tmp_path / "file"
    file.write_text("")

    result = tidegate(command, "--workspace", str(file))

    if command == "up":
        assert result.returncode == 1
        assert result.stderr == f"error: workspace {file}: cannot be written: Not a directory\n"
    else:
        assert (result.returncode, result.stderr) == (0, "")


def test_ctrl_c_ends_everything(local):
    deploy(local)

    local.process.send_signal(signal.SIGINT)

    assert local.process.wait(TIMEOUT) == 0
    assert local.processes() == []
