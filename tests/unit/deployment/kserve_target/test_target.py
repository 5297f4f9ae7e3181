"""The cluster target among others: who else writes the InferenceService, outages, refusals, what is not Tidegate's."""

import threading
import time

import pytest

from tests.kubernetes_api.api_server import Fault, Refused
from tidegate.deployment.inference_service import Service
from tidegate.deployment.kserve.connection import NoSuchApi
from tidegate.deployment.kserve.target import KServeTarget
from tidegate.errors import DeploymentError

TIMEOUT = 20
ISVC = "inferenceservices.serving.kserve.io"


def set_cpu(document):
    document["spec"]["predictor"]["model"]["resources"]["limits"]["cpu"] = "4"


def set_percent(percent, mode):
    def change(document):
        if mode == "Knative":
            document["spec"]["predictor"]["canaryTrafficPercent"] = percent
        else:
            document["spec"]["canary"][0]["trafficPercent"] = percent

    return change


def test_an_edit_is_named_with_its_manager_and_not_overwritten(bench):
    bench.deploy(bench.service, bench.split)
    bench.cluster.edit("flights", set_cpu, manager="kubectl-edit")

    with pytest.raises(
        DeploymentError, match=r'limits\.cpu is "4", but Tidegate set "1" \(changed by kubectl-edit at '
    ) as caught:
        bench.target.apply(bench.service.with_canary(bench.v2, 50))

    assert "put that back, or delete the InferenceService" in str(caught.value)
    assert bench.spec()["predictor"]["model"]["resources"]["limits"]["cpu"] == "4"
    assert bench.shares() == {"v1": 80, "v2": 20}


@pytest.mark.parametrize("change", ["cpu", "percent"])
def test_whoever_edited_what_traffic_is_taken_from_a_canary(bench, change):
    bench.deploy(bench.service, bench.split)
    bench.cluster.edit("flights", set_cpu if change == "cpu" else set_percent(60, bench.mode))

    bench.deploy(bench.service)

    assert bench.shares() == {"v1": 100}
    if change == "cpu":
        assert bench.spec()["predictor"]["model"]["resources"]["limits"]["cpu"] == "4"
        with pytest.raises(DeploymentError, match="was changed by someone else"):
            bench.target.apply(bench.split)


def test_a_canary_of_somebody_else_is_told(standard):
    standard.deploy(standard.service)
    theirs = {"trafficPercent": 30, "predictor": {"name": "mine", "model": standard.spec()["predictor"]["model"]}}
    standard.cluster.edit("flights", lambda document: document["spec"].update(canary=[theirs]), manager="argocd")

    with pytest.raises(DeploymentError, match=r"spec\.canary is .*which Tidegate did not set \(changed by argocd at "):
        standard.target.apply(standard.split)
    with pytest.raises(DeploymentError, match=r"spec\.canary is .*which Tidegate did not set"):
        standard.target.get("flights")


def test_what_others_add_is_kept_and_is_no_edit(bench):
    bench.deploy(bench.service)
    bench.cluster.edit("flights", lambda document: document["metadata"]["labels"].update(team="delays"))

    bench.deploy(bench.split, bench.split.promoted())

    assert bench.cluster.live("flights")["metadata"]["labels"]["team"] == "delays"
    assert bench.shares() == {"v2": 100}


def test_a_service_of_somebody_else_is_left_alone(bench):
    bench.deploy(bench.service)

    def disown(document):
        for annotation in ("tidegate.dev/service", "tidegate.dev/applied"):
            del document["metadata"]["annotations"][annotation]

    bench.cluster.edit("flights", disown)

    for call in (
        lambda: bench.target.get("flights"),
        lambda: bench.target.apply(bench.split),
        lambda: bench.target.delete("flights"),
        lambda: bench.target.status("flights"),
    ):
        with pytest.raises(DeploymentError, match="flights"):
            call()
    assert bench.cluster.live("flights")


def test_a_service_for_another_namespace_is_refused(bench):
    with pytest.raises(DeploymentError, match=r"meant for namespace 'other', but cluster.namespace is 'default'"):
        bench.target.apply(Service("flights", "other", bench.v1))


def test_what_a_webhook_denies_is_told(bench):
    def deny(old, new):
        raise Refused(403, "Forbidden", 'admission webhook "policy" denied the request: no label team')

    bench.cluster.store.admissions[ISVC].append(deny)

    with pytest.raises(DeploymentError, match=r"the cluster refused to create .*denied the request: no label team"):
        bench.target.apply(bench.service)


def test_a_cluster_without_kserve_is_told(bench):
    bench.cluster.api.unknown.add(ISVC)

    with pytest.raises(NoSuchApi, match=r"does not know inferenceservices\.serving\.kserve\.io: KServe is not installed"):
        bench.target.apply(bench.service)


@pytest.mark.parametrize("what", ["drop", "lose", 500, 429])
def test_an_outage_while_traffic_moves_is_lived_through(bench, what):
    bench.deploy(bench.service)
    bench.target.apply(bench.split)
    bench.cluster.api.faults.append(Fault(what, times=3))

    assert bench.target.wait("flights", timeout=TIMEOUT).settled
    bench.cluster.api.faults.append(Fault(what, times=2))
    bench.deploy(bench.split.promoted())
    assert bench.shares() == {"v2": 100}


def test_an_outage_longer_than_the_wait_is_told_as_such(bench):
    bench.deploy(bench.service)
    bench.target.apply(bench.split)
    bench.cluster.api.faults.append(Fault(503, times=10**6))

    began = time.monotonic()
    with pytest.raises(DeploymentError, match="is not settled after 1 s: the cluster's API server does not answer"):
        bench.target.wait("flights", timeout=1)
    assert time.monotonic() - began < 5

    bench.cluster.api.faults.clear()
    assert bench.target.wait("flights", timeout=TIMEOUT).settled


def test_many_callers_at_once_agree(bench):
    bench.deploy(bench.service)
    errors: list[BaseException] = []

    def drive() -> None:
        try:
            target = KServeTarget(bench.section, api=bench.cluster.connection())
            target.apply(bench.split)
            target.wait("flights", timeout=TIMEOUT)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=drive) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert bench.shares() == {"v1": 80, "v2": 20}


def test_a_storm_of_other_writers_is_told_and_loses_nothing(bench, monkeypatch):
    bench.deploy(bench.service)
    read = bench.target._api.read

    def overtaken(resource, namespace, name):
        found = read(resource, namespace, name)
        if resource.plural == "inferenceservices":
            count = str(time.monotonic_ns())
            bench.cluster.edit(name, lambda document: document["metadata"]["annotations"].update(count=count), "noise")
        return found

    monkeypatch.setattr(bench.target._api, "read", overtaken)
    with pytest.raises(DeploymentError, match="is written by others all the time"):
        bench.target.apply(bench.split)
    monkeypatch.undo()

    bench.deploy(bench.split)


def test_the_backends_are_named(bench):
    bench.deploy(bench.service, bench.split)

    expected = {
        "Standard": {"v1": "flights-v1-predictor", "v2": "flights-v2-predictor"},
        "Knative": {"v1": "flights-predictor-00001", "v2": "flights-predictor-00002"},
    }
    assert bench.target.backends("flights") == expected[bench.mode]


def test_a_service_that_is_being_deleted_is_made_anew(bench):
    bench.deploy(bench.service)
    bench.cluster.paused.set()
    bench.target.delete("flights")
    assert bench.target.get("flights") is None
    threading.Timer(0.3, bench.cluster.paused.clear).start()

    bench.deploy(bench.split)


def test_a_replacement_takes_the_deployment_in_place(make_bench):
    bench = make_bench()
    target = KServeTarget(bench.section, in_place=True, api=bench.cluster.connection())
    for service in (bench.service, bench.split.promoted()):
        target.apply(service)
        assert target.wait("flights", timeout=TIMEOUT).settled

    assert bench.spec()["predictor"]["deploymentStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert target.backends("flights") == {"v2": "flights-predictor"}
