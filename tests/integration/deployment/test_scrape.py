"""What the scrape metrics source counts on a real Envoy, whatever a canary does."""

import os
import signal
import time

import pytest

from tidegate.deployment.inference_service import Service
from tidegate.errors import RolloutError
from tidegate.rollout.scrape import ScrapeMetricsSource

TIMEOUT = 30


class Deployed:
    """A stable revision and a canary at half of the traffic, and the counters since."""

    def __init__(self, shared, name):
        self.shared, self.name = shared, name
        service = Service(name, "default", shared.revision(f"v1-{name}"))
        self.service = service.with_canary(shared.revision(f"v2-{name}"), 50)
        shared.target.apply(self.service)
        self.url = shared.target.wait(name, timeout=TIMEOUT).url
        self.source = ScrapeMetricsSource(shared.target)
        self.before = self.source.observe(name)

    def counted(self):
        """Return (requests, errors) of the stable and the canary."""
        now = self.source.observe(self.name)
        return tuple(
            (now[name].requests - self.before[name].requests, now[name].errors - self.before[name].errors)
            for name in (f"v1-{self.name}", f"v2-{self.name}")
        )

    def kill_canary(self):
        # Before the supervisor has started it again, which takes half a second at least.
        os.kill(self.shared.pid(self.name, f"v2-{self.name}"), signal.SIGKILL)


def test_healthy(shared):
    deployed = Deployed(shared, "healthy")

    answers = shared.send(deployed.url, 200)

    assert deployed.counted() == ((answers[200, "v1-healthy"], 0), (answers[200, "v2-healthy"], 0))


def test_a_canary_that_answers_503(shared):
    deployed = Deployed(shared, "answers503")
    shared.set_mode("v2-answers503", "fail")

    assert shared.send(deployed.url, 200) == {(200, "v1-answers503"): 200}

    (stable, stable_errors), (canary, canary_errors) = deployed.counted()
    assert (stable + canary, stable_errors) == (200, 0)
    assert canary_errors == canary > 50


def test_a_killed_canary(shared):
    deployed = Deployed(shared, "killed")
    deployed.kill_canary()

    answers = shared.send(deployed.url, 60)

    (stable, stable_errors), (canary, canary_errors) = deployed.counted()
    assert {status for status, _ in answers} == {200}
    assert (stable + canary, stable_errors) == (60, 0)
    assert canary_errors == canary - answers[200, "v2-killed"] > 0


def test_a_canary_known_to_be_down_fails_what_it_was_meant_to_answer(shared):
    deployed = Deployed(shared, "down")
    shared.set_mode("v2-down", "exit")
    deployed.kill_canary()
    time.sleep(5)  # Envoy's health checks take it out
    deployed.before = deployed.source.observe("down")

    assert shared.send(deployed.url, 200) == {(200, "v1-down"): 200}

    (stable, stable_errors), (canary, canary_errors) = deployed.counted()
    assert (stable + canary, stable_errors) == (200, 0)
    assert canary_errors == canary > 50


def test_a_canary_that_hangs(shared):
    deployed = Deployed(shared, "hangs")
    shared.set_mode("v2-hangs", "hang")

    with shared.load(deployed.url) as load:
        time.sleep(6)

    (stable, stable_errors), (canary, canary_errors) = deployed.counted()
    assert set(load.answers) == {(200, "v1-hangs")}
    assert (stable + canary, stable_errors) == (load.answers.total(), 0)
    assert canary_errors == canary >= 1


def test_a_failing_stable_fails_by_itself(shared):
    deployed = Deployed(shared, "stablefails")
    shared.set_mode("v1-stablefails", "fail")

    answers = shared.send(deployed.url, 200)

    failed = answers[503, "v1-stablefails"]
    assert deployed.counted() == ((failed, failed), (200 - failed, 0))


def test_both_fail(shared):
    deployed = Deployed(shared, "bothfail")
    for revision in ("v1-bothfail", "v2-bothfail"):
        shared.set_mode(revision, "fail")

    assert shared.send(deployed.url, 200) == {(503, "v1-bothfail"): 200}

    (stable, stable_errors), (canary, canary_errors) = deployed.counted()
    assert stable + canary == 200
    assert (stable_errors, canary_errors) == (stable, canary)


def test_counters_go_on_after_promotion(shared):
    deployed = Deployed(shared, "promoted")
    shared.set_mode("v2-promoted", "fail")
    shared.send(deployed.url, 100)
    failed = deployed.counted()[1]
    shared.set_mode("v2-promoted", "ok")
    shared.target.apply(deployed.service.promoted())
    shared.target.wait("promoted", timeout=TIMEOUT)

    assert shared.send(deployed.url, 100) == {(200, "v2-promoted"): 100}

    after = deployed.source.observe("promoted")["v2-promoted"]
    assert (after.requests, after.errors) == (failed[0] + 100, failed[1])


def test_counters_only_grow_when_envoy_restarts(local):
    local.target.apply(Service("flights", "default", local.revision("v1")))
    url = local.target.wait("flights", timeout=TIMEOUT).url
    source = ScrapeMetricsSource(local.target)
    local.send(url, 30)
    assert source.observe("flights")["v1"].requests == 30
    (envoy,) = set(local.processes()) - {local.pid("flights", "v1")}

    os.kill(envoy, signal.SIGKILL)

    local.eventually(lambda: local.send(url, 1) == {(200, "v1"): 1}, timeout=TIMEOUT)
    assert source.observe("flights")["v1"].requests == 31


def test_latency_goes_on_when_a_server_restarts(local):
    local.target.apply(Service("flights", "default", local.revision("v1")))
    url = local.target.wait("flights", timeout=TIMEOUT).url
    source = ScrapeMetricsSource(local.target)
    local.send(url, 30)
    assert sum(source.observe("flights")["v1"].latency.counts) == 30

    os.kill(local.pid("flights", "v1"), signal.SIGKILL)
    assert sum(source.observe("flights")["v1"].latency.counts) == 30

    local.eventually(lambda: local.target.status("flights").settled is False, timeout=TIMEOUT)
    local.target.wait("flights", timeout=TIMEOUT)
    local.send(url, 5)
    assert sum(source.observe("flights")["v1"].latency.counts) == 35


def test_what_cannot_be_observed_is_one_clear_error(shared, tmp_path):
    with pytest.raises(RolloutError, match="service never cannot be observed: service 'never' is not known"):
        ScrapeMetricsSource(shared.target).observe("never")
    with pytest.raises(RolloutError, match="the local target is not running"):
        ScrapeMetricsSource(type(shared.target)(tmp_path)).observe("never")
