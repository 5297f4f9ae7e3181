"""Why a revision is not ready, as a cluster tells it: one line, with the cause, and at once where waiting does not help."""

import time

import pytest

from tidegate.deployment.kserve import diagnosis
from tidegate.errors import DeploymentError

SOON = 1.0

HOPELESS = [
    pytest.param(
        "crash", "kserve-container of pod .* ends with exit code 3, .*package digest mismatch: model.onnx", id="crash"
    ),
    pytest.param("memory", r"was killed for memory \(OOMKilled\); raise cluster.serving.memory", id="out-of-memory"),
    pytest.param("no-image", "cannot pull its image registry/tidegate-onnx:1: ErrImagePull: .*not found", id="no-such-image"),
    pytest.param("storage", r"cannot fetch the model package \(exit code 1\).*HeadObject operation: Forbidden", id="storage"),
]
HOPEFUL = [
    pytest.param("image", "cannot pull its image .*ImagePullBackOff", id="registry-does-not-answer"),
    pytest.param("unschedulable", "cannot be scheduled: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu", id="no-gpu"),
    pytest.param("config", 'cannot start: CreateContainerConfigError: secret "redis" not found', id="no-secret"),
    pytest.param("never", "runs, but its readiness probe fails", id="never-ready"),
    pytest.param("quota", "exceeded quota: gpus", id="quota"),
]


@pytest.mark.parametrize(("fate", "cause"), HOPELESS)
def test_what_will_not_pass_is_told_at_once(bench, fate, cause):
    bench.cluster.pods.fates["v2"] = fate
    bench.deploy(bench.service)
    bench.target.apply(bench.split)

    began = time.monotonic()
    with pytest.raises(DeploymentError, match=f"will not be ready with revision v2: revision v2: .*{cause}") as caught:
        bench.target.wait("flights", revision="v2", timeout=30)

    assert time.monotonic() - began < 15
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("fate", "cause"), HOPEFUL)
def test_what_may_pass_is_told_when_the_time_is_over(bench, fate, cause):
    bench.cluster.pods.fates["v2"] = fate
    bench.deploy(bench.service)
    bench.target.apply(bench.split)

    with pytest.raises(DeploymentError, match=f"is not settled after 1 s: revision v2: .*{cause}"):
        bench.target.wait("flights", timeout=SOON)
    assert bench.shares() == {"v1": 100}


def test_what_passes_is_waited_for(bench):
    bench.cluster.pods.fates["v2"] = "unschedulable"
    bench.deploy(bench.service)
    bench.target.apply(bench.split)
    with pytest.raises(DeploymentError):
        bench.target.wait("flights", timeout=SOON)

    bench.cluster.pods.fates["v2"] = "ready"

    assert bench.target.wait("flights", timeout=20).settled


def test_a_runtime_that_is_not_there_is_told_once_it_is_sure(standard, monkeypatch):
    monkeypatch.setattr(diagnosis, "_STATUS_LAG", 0.5)
    standard.cluster.pods.fates["v1"] = "runtime"
    standard.target.apply(standard.service)

    with pytest.raises(DeploymentError, match=r"KServe refuses it: RuntimeNotRecognized: .* \(runtime tidegate-onnx\)"):
        standard.target.wait("flights", timeout=30)


def test_what_kserve_warns_of_is_told_where_nothing_was_made(standard):
    standard.deploy(standard.service)
    standard.cluster.pods.fates["v2"] = "runtime"
    standard.target.apply(standard.split)

    with pytest.raises(DeploymentError, match=r"KServe warns: InternalError: .*with the name: tidegate-onnx"):
        standard.target.wait("flights", timeout=SOON)


def test_a_controller_that_does_not_run_is_suspected(bench):
    bench.cluster.paused.set()
    bench.target.apply(bench.service)

    with pytest.raises(DeploymentError, match="KServe has not taken it up yet; does its controller run"):
        bench.target.wait("flights", timeout=SOON)


def test_a_secret_in_a_log_is_not_told(bench):
    bench.cluster.pods.fates["v2"] = "storage"
    bench.deploy(bench.service)
    bench.target.apply(bench.split)

    with pytest.raises(DeploymentError) as caught:
        bench.target.wait("flights", timeout=30)

    assert "aws_secret_access_key=***" in str(caught.value)
    assert "wJalrXUtnFEMI" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        pytest.param("password: hunter2, retry", "password: ***, retry", id="colon"),
        pytest.param('{"token": "abc", "n": 1}', '{"token": "***", "n": 1}', id="json"),
        pytest.param("Authorization: Bearer abc.def", "Authorization: ***", id="header"),
        pytest.param("redis://user:pw@host:6379/0", "redis://***host:6379/0", id="address"),
        pytest.param("cannot open model.onnx", "cannot open model.onnx", id="harmless"),
    ],
)
def test_what_looks_like_a_secret_is_masked(line, shown):
    assert diagnosis.shown(line) == shown


def test_pods_that_may_not_be_listed_leave_what_the_deployment_says(standard):
    standard.cluster.api.forbidden.add(("GET", "pods"))
    standard.cluster.pods.fates["v2"] = "quota"
    standard.deploy(standard.service)
    standard.target.apply(standard.split)

    with pytest.raises(DeploymentError, match=r"exceeded quota.*its pods cannot be read: the account may not list pods"):
        standard.target.wait("flights", timeout=SOON)
