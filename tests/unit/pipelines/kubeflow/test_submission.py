"""From a compiled pipeline to a run: same content, same version; a lost reply starts one run; namespaces as Kubeflow asks."""

import json
import re
import threading
import warnings
from pathlib import Path

import kfp
import pytest

from pipelines.kubeflow.api_errors import ApiRefusal
from pipelines.kubeflow.client import API
from pipelines.kubeflow.cluster_launcher import ClusterLauncher
from pipelines.kubeflow.submission import Submitter, compiled_pipeline
from tests.kfp_api.api import KfpApi, Outage
from tests.kfp_api.server import serving
from tests.unit.pipelines.conftest import GIVEN, IMAGE
from tidegate.errors import PipelineError, ProjectError


def submitter(connect, server, **options):
    return Submitter(connect(server), **{"namespace": "team"} | options)


def test_same_content_is_uploaded_once_and_every_change_is_a_version_of_its_own(connect, compiled):
    server = KfpApi()
    submits = submitter(connect, server)

    first = submits.upload(compiled())
    again = submits.upload(compiled())
    changed = submits.upload(compiled("other"))

    assert (first.fresh, again.fresh, changed.fresh) == (True, False, True)
    assert first.version_id == again.version_id
    assert first.pipeline_id == changed.pipeline_id
    assert [version["name"] for version in server.versions.values()] == [first.version, changed.version]
    assert re.fullmatch(r"flights-late-drift-[0-9a-f]{12}", first.version)
    assert len(server.pipelines) == 1
    assert server.versions[first.version_id]["pipeline_spec"]["pipelineInfo"]["name"] == "tidegate-drift"


def test_run_names_its_version_parameters_experiment_and_service_account(connect, compiled):
    server = KfpApi()
    submits = submitter(connect, server, ui="https://kubeflow.example.com/pipeline/")

    submitted = submits.start(compiled(), GIVEN | {"limit": "7"}, experiment="trials")

    (run,) = server.runs.values()
    assert run["runtime_config"] == {"parameters": GIVEN | {"limit": 7}}
    assert run["pipeline_version_reference"] == submitted.uploaded.reference
    assert run["service_account"] == "tidegate-pipelines"
    assert run["display_name"] == submitted.name
    assert [experiment["display_name"] for experiment in server.experiments.values()] == ["trials"]
    assert submitted.link == f"https://kubeflow.example.com/pipeline/#/runs/details/{run['run_id']}"


def test_experiment_is_the_projects_if_not_given_and_made_once(connect, compiled):
    server = KfpApi()
    submits = submitter(connect, server)

    submits.start(compiled(), GIVEN)
    submits.start(compiled(), GIVEN)

    assert [experiment["display_name"] for experiment in server.experiments.values()] == ["flights-late"]
    assert len(server.runs) == 2


@pytest.mark.parametrize("kind", ["drop", "lose", 500, 503])
@pytest.mark.parametrize("path", ["pipelines", "pipelines/upload_version", "experiments", "runs"])
def test_lost_reply_makes_one_of_each(connect, compiled, path, kind):
    lost = Outage(kind, when=lambda method, asked: (method, asked) == ("POST", f"{API}/{path}"))
    server = KfpApi(outages=[lost])

    submitted = submitter(connect, server).start(compiled(), GIVEN)

    made = (server.pipelines, server.versions, server.experiments, server.runs)
    assert [len(kind) for kind in made] == [1, 1, 1, 1]
    assert submitted.run_id in server.runs
    assert lost.times == 0


def test_two_at_the_same_time_upload_once(connect, compiled):
    server = KfpApi()
    api = connect(server)
    barrier = threading.Barrier(4)
    versions = []

    def upload():
        submits = Submitter(api, namespace=None)
        barrier.wait()
        versions.append(submits.upload(compiled()).version_id)

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(versions)) == len(server.versions) == len(server.pipelines) == 1
    assert len(versions) == 4


def test_multi_user_kubeflow_wants_a_namespace_and_gets_it_everywhere(connect, compiled):
    server = KfpApi(multi_user=True)

    with pytest.raises(PipelineError, match="is a multi-user Kubeflow: give the namespace of your profile, --namespace NAME"):
        submitter(connect, server, namespace=None)
    submits = submitter(connect, server)
    submits.start(compiled(), GIVEN)

    made = (*server.pipelines.values(), *server.experiments.values(), *server.runs.values())
    assert [item["namespace"] for item in made] == ["team"] * 3


def test_single_user_kubeflow_pipelines_is_not_told_a_namespace(connect, compiled):
    server = KfpApi()

    submits = submitter(connect, server)
    submits.start(compiled(), GIVEN)

    assert submits.namespace is None
    assert "namespace" not in next(iter(server.pipelines.values()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({}, "pipeline drift needs the parameter start; give it by --param start=VALUE", id="missing"),
        pytest.param(
            GIVEN | {"begin": "x"}, "--param begin: pipeline drift has no such parameter; it has clock, ", id="unknown"
        ),
        pytest.param(GIVEN | {"limit": "seven"}, "--param limit='seven': expected number_integer as JSON", id="no-integer"),
        pytest.param(GIVEN | {"limit": "true"}, "--param limit='true': expected number_integer", id="bool-is-no-integer"),
        pytest.param(GIVEN | {"strict": "yes"}, "--param strict='yes': expected boolean", id="no-boolean"),
        pytest.param(GIVEN | {"names": '{"a":1}'}, "expected list as JSON", id="no-list"),
        pytest.param(GIVEN | {"clock": "today"}, "--param clock: 'today' is not a clock; use 'wall'", id="no-clock"),
        pytest.param(GIVEN | {"clock": "at:noon"}, "--param clock: 'noon' is not a moment", id="no-moment"),
        pytest.param(GIVEN | {"clock": "replay:/c"}, "is a file of one machine; on a cluster use", id="replay"),
    ],
)
def test_wrong_parameter_is_refused_before_anything_is_uploaded(connect, compiled, given, message):
    server = KfpApi()

    with pytest.raises(PipelineError, match=re.escape(message)):
        submitter(connect, server).start(compiled(), given)

    assert (server.pipelines, server.versions) == ({}, {})


def test_parameters_get_the_types_that_the_pipeline_declares(compiled):
    given = GIVEN | {"limit": "7", "strict": "false", "names": '["a"]', "start": "7"}

    assert compiled().parameters(given) == GIVEN | {"limit": 7, "strict": False, "names": ["a"], "start": "7"}


def test_project_file_is_named_to_the_image_from_the_root_of_the_repository(flights):
    compiled = compiled_pipeline(pipeline="drift", project_file=flights.file, image=IMAGE)

    assert b"defaultValue: examples/flights/tidegate.yaml" in compiled.content


def test_address_without_the_api_says_what_may_be_missing(connect):
    api = connect(KfpApi())
    api.host += "/elsewhere"

    with pytest.raises(PipelineError, match="has no API of Kubeflow Pipelines 2; behind a Kubeflow gateway, its address ends"):
        Submitter(api, namespace=None)


def test_what_the_server_refuses_is_its_own_word(connect, compiled):
    server = KfpApi()
    broken = compiled()
    object.__setattr__(broken, "content", broken.content.replace(b"pipelineInfo", b"pipelineinfo"))

    with pytest.raises(ApiRefusal, match=r"unknown template format: pipeline spec is invalid \(HTTP 400\)"):
        submitter(connect, server).start(broken, GIVEN)


def test_real_pipelines_of_the_project_are_compiled_for_the_image(flights):
    compiled = compiled_pipeline(pipeline="drift", project_file=flights.file, image=IMAGE)

    assert compiled.name == "flights-late-drift"
    assert IMAGE.encode() in compiled.content
    assert compiled.parameters({"clock": "wall"}) == {"clock": "wall"}
    assert compiled == compiled_pipeline(pipeline="drift", project_file=flights.file, image=IMAGE)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param({"pipeline": "retrain"}, PipelineError, "no pipeline 'retrain'; choose one of release", id="name"),
        pytest.param({"image": "flights:latest"}, PipelineError, "must be pinned by digest", id="image"),
        pytest.param({"project_file": Path("/elsewhere/tidegate.yaml")}, PipelineError, "image does not hold", id="elsewhere"),
        pytest.param({"project_file": Path("none.yaml")}, ProjectError, "none.yaml: No such file", id="project"),
    ],
)
def test_what_cannot_be_compiled_is_refused(flights, change, error, message):
    with pytest.raises(error, match=message):
        compiled_pipeline(**{"pipeline": "drift", "project_file": flights.file, "image": IMAGE} | change)


def test_launcher_on_a_cluster_runs_to_the_end_and_tells_the_tasks(connect, flights):
    done = {"task_id": "1", "display_name": "check-drift", "state": "SUCCEEDED"}
    server = KfpApi(progress=[{"state": "SUCCEEDED", "run_details": {"task_details": [done]}}])
    started, events = [], []
    launcher = ClusterLauncher(
        submitter(connect, server), project_file=flights.file, image=IMAGE, on_started=lambda run: started.append(run.run_id)
    )

    result = launcher.run("drift", {"clock": "wall"}, on_event=events.append)

    assert result.succeeded
    assert started == list(server.runs)
    assert [(event.task, event.state) for event in events] == [("check-drift", "started"), ("check-drift", "succeeded")]
    assert result.events == tuple(events)
    assert result.log == result.artifacts
    assert started[0] in str(result.log)


def test_kubeflows_own_client_finds_in_the_test_server_what_it_expects(connect, compiled, tmp_path, monkeypatch):
    """The test server is held to kfp.Client 2.17.0: what that one cannot read would prove nothing."""
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    package = tmp_path / "drift.yaml"
    package.write_bytes(compiled().content)
    server = KfpApi(page_limit=2)
    with serving(server) as url, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = kfp.Client(host=url)
        theirs = client.upload_pipeline(str(package), pipeline_name="theirs")
        version = client.upload_pipeline_version(str(package), "second", pipeline_id=theirs.pipeline_id)
        experiment = client.create_experiment("trials")
        run = client.run_pipeline(
            experiment.experiment_id, "a run", pipeline_id=theirs.pipeline_id, version_id=version.pipeline_version_id
        )
        recurring = client.create_recurring_run(
            experiment.experiment_id,
            "a schedule",
            cron_expression="0 0 6 * * *",
            max_concurrency=1,
            no_catchup=True,
            pipeline_id=theirs.pipeline_id,
            version_id=version.pipeline_version_id,
        )
        client.disable_recurring_run(recurring.recurring_run_id)

        assert client.get_pipeline_id("theirs") == theirs.pipeline_id
        assert client.list_pipeline_versions(theirs.pipeline_id).total_size == 2
        assert client.get_run(run.run_id).state == "PENDING"
        assert client.list_runs(experiment_id=experiment.experiment_id).runs[0].run_id == run.run_id
        found = client.get_recurring_run(recurring.recurring_run_id)
        assert (found.status, found.trigger.cron_schedule.cron, found.no_catchup) == ("DISABLED", "0 0 6 * * *", True)
        client.delete_recurring_run(recurring.recurring_run_id)
        assert client.list_recurring_runs(experiment_id=experiment.experiment_id).recurring_runs is None
        with pytest.raises(kfp.client.client.kfp_server_api.ApiException) as refused:
            client.get_run("none")
        assert json.loads(refused.value.body)["details"][0]["message"] == "none not found"
