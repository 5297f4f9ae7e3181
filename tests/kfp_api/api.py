"""What the Kubeflow Pipelines backend does, as far as a client sees it: the state behind the test server.

Shapes, status codes and rules are those of kubeflow/pipelines at 7b70c7b (August 2026, after 2.17.0):
paths, query names and fields from `backend/api/v2beta1/swagger` (the fields through kfp_server_api's models, 2.17.3);
errors from `backend/src/common/util/error.go` and `backend/src/apiserver/server/pipeline_upload_server.go`;
recurring runs from `backend/src/apiserver/server/api_converter.go` and `resource/resource_manager.go`;
pages from `backend/src/apiserver/list/list.go`. Single requests can be made to fail; see `Outage`.
"""

import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from typing import Any

import kfp_server_api
import yaml

LIST_QUERY = {"page_token", "page_size", "sort_by", "filter", "namespace"}
QUERY = {
    ("GET", "pipelines"): LIST_QUERY,
    ("GET", "versions"): LIST_QUERY - {"namespace"},
    ("GET", "experiments"): LIST_QUERY,
    ("GET", "runs"): LIST_QUERY | {"experiment_id"},
    ("GET", "recurringruns"): LIST_QUERY | {"experiment_id"},
    ("POST", "upload_version"): {"name", "display_name", "pipelineid", "description"},
    ("POST", "upload"): {"name", "display_name", "description", "namespace"},
    ("DELETE", "recurringrun"): {"propagation_policy"},
}
COLUMN_CHARACTERS = 255  # client_manager.go, DefaultStringSize
ACTIVE = {"PENDING", "RUNNING", "CANCELING", "PAUSED"}


class Refusal(Exception):
    """An answer that is not 200; `upload` has another shape than grpc-gateway's."""

    def __init__(self, status: int, message: str, *, upload: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.upload = upload


@dataclass
class Outage:
    """What happens to requests that `when` picks, `times` times.

    `kind`: `drop` closes the connection unread; `lose` does what was asked and closes without an answer; `slow` answers after
    `seconds`; a number is an HTTP status without the request being done.
    """

    kind: str | int
    times: int = 1
    when: Callable[[str, str], bool] = lambda method, path: True
    seconds: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class KfpApi:
    """The state of the server, and how it behaves."""

    multi_user: bool = False
    tokens: set[str] | None = None
    cookie: tuple[str, str] | None = None
    login_page: str | None = None
    echo_credentials: bool = False
    knows_orphan: bool = True
    page_limit: int = 200
    outages: list[Outage] = field(default_factory=list)
    progress: list[dict[str, Any]] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.steps: dict[str, int] = {}
        self.requests: list[str] = []
        self.seen_headers: list[dict[str, str]] = []
        self.most_enabled: dict[str, int] = {}
        self.crash_at: int | None = None
        self.crash_after_effect = False
        self.killed_runs: list[str] = []
        self.stopped = threading.Event()

    # --- what tests do behind the server's back

    def fire(self, recurring_run_id: str, state: str = "RUNNING") -> str:
        """Start a run as the controller does."""
        recurring = self.recurring[recurring_run_id]
        assert recurring["status"] == "ENABLED"
        run = self._new_run(
            {
                key: recurring[key]
                for key in ("experiment_id", "pipeline_version_reference", "service_account", "runtime_config")
            }
            | {"display_name": f"{recurring['display_name'][:25]}x-{len(self.runs) + 1}", "recurring_run_id": recurring_run_id},
        )
        run["state"] = state
        return str(run["run_id"])

    def enabled(self, name: str) -> list[dict[str, Any]]:
        """Return the enabled recurring runs of a name."""
        return [one for one in self.recurring.values() if one["display_name"] == name and one["status"] == "ENABLED"]

    # --- routes

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, content_type: str) -> Any:
        parts = path.removeprefix("/apis/v2beta1/").split("/")
        match method, parts:
            case "GET", ["healthz"]:
                return {
                    "commit_sha": "7b70c7b",
                    "tag_name": "2.17.0",
                    "multi_user": self.multi_user,
                    "pipeline_store": "database",
                }
            case "GET", ["pipelines"]:
                return self._page(self._scoped(self.pipelines, query), "pipelines", query)
            case "POST", ["pipelines"]:
                return self._create_pipeline(_checked(body, kfp_server_api.V2beta1Pipeline))
            case "POST", ["pipelines", "upload_version"]:
                return self._upload_version(query, body, content_type)
            case "POST", ["pipelines", "upload"]:
                return self._upload(query, body, content_type)
            case "GET", ["pipelines", pipeline]:
                return _found(self.pipelines, pipeline)
            case "GET", ["pipelines", pipeline, "versions"]:
                _found(self.pipelines, pipeline)
                ours = [version for version in self.versions.values() if version["pipeline_id"] == pipeline]
                return self._page(ours, "pipeline_versions", query, kind="versions")
            case "GET", ["pipelines", _, "versions", version]:
                return _found(self.versions, version)
            case "GET", ["experiments"]:
                return self._page(self._scoped(self.experiments, query), "experiments", query)
            case "POST", ["experiments"]:
                return self._create_experiment(_checked(body, kfp_server_api.V2beta1Experiment))
            case "GET", ["runs"]:
                return self._page(self._scoped(self.runs, query), "runs", query)
            case "POST", ["runs"]:
                return self._create_run(_checked(body, kfp_server_api.V2beta1Run))
            case "GET", ["runs", run]:
                return self._advance(_found(self.runs, run))
            case "POST", ["runs", action]:
                run_id, _, verb = action.partition(":")
                assert verb == "terminate", verb
                _found(self.runs, run_id)["state"] = "CANCELING"
                return {}
            case "GET", ["recurringruns"]:
                return self._page(self._scoped(self.recurring, query), "recurringRuns", query, kind="recurringruns")
            case "GET", ["recurringruns", identity]:
                return _found(self.recurring, identity)
            case "POST", ["recurringruns"]:
                return self._create_recurring(_checked(body, kfp_server_api.V2beta1RecurringRun))
            case "POST", ["recurringruns", action]:
                identity, _, verb = action.partition(":")
                return self._switch(_found(self.recurring, identity), verb)
            case "DELETE", ["recurringruns", identity]:
                return self._delete_recurring(identity, query)
        if match := re.fullmatch(r"/apis/v1alpha1/runs/[^/]+/nodes/([^/]+)/log", path):
            if match[1] not in self.logs:  # the real one has sent 200 by then, too: run_log_server.go
                return json.dumps({"error_message": f"pod {match[1]} not found"})
            return self.logs[match[1]]
        raise Refusal(404, f"no route {method} {path}")

    def _create_pipeline(self, pipeline: dict[str, Any]) -> dict[str, Any]:
        name = pipeline.get("name") or pipeline.get("display_name") or ""
        if not name:
            raise Refusal(400, "pipeline's name cannot be empty")
        self._need_namespace(pipeline.get("namespace"))
        if any(old["name"] == name and old.get("namespace") == pipeline.get("namespace") for old in self.pipelines.values()):
            raise Refusal(409, f"Failed to create a new pipeline. The name {name} already exists. Please specify a new name")
        made = {"pipeline_id": _id(), "name": name, "display_name": name, "created_at": _now()} | pipeline
        self.pipelines[made["pipeline_id"]] = made
        return made

    def _upload_version(self, query: dict[str, str], body: bytes, content_type: str) -> dict[str, Any]:
        content = _uploaded_file(body, content_type)
        pipeline = query.get("pipelineid", "")
        name = query.get("name") or query.get("display_name") or ""
        if pipeline not in self.pipelines or not name:
            raise Refusal(400, "Failed to create a pipeline version", upload=True)
        if any(old["pipeline_id"] == pipeline and old["name"] == name for old in self.versions.values()):
            raise Refusal(409, "Failed to create a pipeline version", upload=True)
        specification, *platform = yaml.safe_load_all(content)
        if "pipelineInfo" not in specification:
            raise Refusal(400, "unknown template format: pipeline spec is invalid", upload=True)
        version = {
            "pipeline_id": pipeline,
            "pipeline_version_id": _id(),
            "name": name,
            "display_name": name,
            "description": query.get("description", ""),
            "created_at": _now(),
            "pipeline_spec": {"pipeline_spec": specification, "platform_spec": platform[0]} if platform else specification,
        }
        self.versions[version["pipeline_version_id"]] = version
        return version

    def _upload(self, query: dict[str, str], body: bytes, content_type: str) -> dict[str, Any]:
        pipeline = self._create_pipeline({"display_name": query["name"], "namespace": query.get("namespace", "")})
        self._upload_version(query | {"pipelineid": pipeline["pipeline_id"]}, body, content_type)
        return pipeline

    def _create_experiment(self, experiment: dict[str, Any]) -> dict[str, Any]:
        name = experiment.get("display_name", "")
        self._need_namespace(experiment.get("namespace"))
        for old in self.experiments.values():
            if old["display_name"] == name and old.get("namespace") == experiment.get("namespace"):
                raise Refusal(409, f"Failed to create a new experiment. The name {name} already exists.")
        made = {"experiment_id": _id(), "created_at": _now(), "storage_state": "AVAILABLE"} | experiment
        self.experiments[made["experiment_id"]] = made
        return made

    def _create_run(self, run: dict[str, Any]) -> dict[str, Any]:
        reference = run.get("pipeline_version_reference") or {}
        if reference.get("pipeline_version_id") not in self.versions:
            raise Refusal(500, "Internal Server Error")
        specification = self.versions[reference["pipeline_version_id"]]["pipeline_spec"]
        declared = specification.get("pipeline_spec", specification)["root"].get("inputDefinitions", {}).get("parameters", {})
        for name in (run.get("runtime_config") or {}).get("parameters") or {}:
            if name not in declared:
                raise Refusal(400, f"parameter {name} is not a valid parameter name for the pipeline")
        return self._new_run(run)

    def _new_run(self, run: dict[str, Any]) -> dict[str, Any]:
        experiment = _found(self.experiments, run.get("experiment_id", ""))
        made = run | {
            "run_id": _id(),
            "state": "PENDING",
            "storage_state": "AVAILABLE",
            "namespace": experiment.get("namespace"),
            "created_at": _now(),
            "scheduled_at": _now(),
            "finished_at": "1970-01-01T00:00:00Z",
        }
        self.runs[made["run_id"]] = made
        return made

    def _advance(self, run: dict[str, Any]) -> dict[str, Any]:
        """Go one step on in the script of a run with every question."""
        step = self.steps.get(run["run_id"], 0)
        if run["state"] == "CANCELING":
            run |= {"state": "CANCELED", "finished_at": _now()}
        elif self.progress and not run.get("recurring_run_id") and run["state"] in ACTIVE:
            run |= self.progress[min(step, len(self.progress) - 1)]
            self.steps[run["run_id"]] = step + 1
            if run["state"] not in ACTIVE:
                run["finished_at"] = _now()
        return run

    def _create_recurring(self, recurring: dict[str, Any]) -> dict[str, Any]:
        if not recurring.get("display_name"):
            raise Refusal(400, "Recurring run's name cannot be empty")
        if not 1 <= int(recurring.get("max_concurrency", 0)) <= 10:
            raise Refusal(400, "Max concurrency of a recurring run must be at least 1 and at most 10.")
        cron = recurring["trigger"]["cron_schedule"]["cron"]
        if len(cron.split()) not in (5, 6) and not cron.startswith("@"):
            raise Refusal(400, "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron).")
        experiment = _found(self.experiments, recurring.get("experiment_id", ""))
        enabled = recurring.get("mode") == "ENABLE"
        made = recurring | {
            "recurring_run_id": _id(),
            "namespace": experiment.get("namespace") or "kubeflow",
            "status": "ENABLED" if enabled else "DISABLED",
            "mode": "ENABLE" if enabled else "DISABLE",
            "created_at": _now(),
            "updated_at": _now(),
        }
        self.recurring[made["recurring_run_id"]] = made
        self._count_enabled(made["display_name"])
        return made

    def _switch(self, recurring: dict[str, Any], verb: str) -> dict[str, Any]:
        assert verb in ("enable", "disable"), verb
        recurring |= {"status": verb.upper() + "D", "mode": verb.upper(), "updated_at": _now()}
        self._count_enabled(recurring["display_name"])
        return {}

    def _delete_recurring(self, identity: str, query: dict[str, str]) -> dict[str, Any]:
        """Delete it; unless its runs are orphaned, the garbage collector takes their workflows (kubeflow/pipelines#7421)."""
        _found(self.recurring, identity)
        if not (self.knows_orphan and query.get("propagation_policy") == "ORPHAN"):
            for run in self.runs.values():
                if run.get("recurring_run_id") == identity and run["state"] in ACTIVE:
                    run["state"] = "FAILED"
                    self.killed_runs.append(run["run_id"])
        del self.recurring[identity]
        return {}

    def _count_enabled(self, name: str) -> None:
        self.most_enabled[name] = max(self.most_enabled.get(name, 0), len(self.enabled(name)))

    def _need_namespace(self, namespace: str | None) -> None:
        if self.multi_user and not namespace:
            raise Refusal(400, "Invalid input error: a namespace is required in multi-user mode")

    def _scoped(self, items: dict[str, dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        found = list(items.values())
        if experiment := query.get("experiment_id"):
            return [item for item in found if item.get("experiment_id") == experiment]
        if self.multi_user:
            self._need_namespace(query.get("namespace"))
            return [item for item in found if item.get("namespace") == query["namespace"]]
        return found

    def _page(self, items: list[dict[str, Any]], name: str, query: dict[str, str], kind: str | None = None) -> dict[str, Any]:
        unknown = set(query) - QUERY["GET", kind or name]
        assert not unknown, unknown
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            assert predicate["operation"] in ("EQUALS", 1), predicate  # kfp.Client sends the number
            items = [item for item in items if item.get(predicate["key"]) == predicate["stringValue"]]
        if query.get("sort_by", "").endswith(" desc"):
            items = items[::-1]
        begin = int(query.get("page_token") or 0)
        size = min(int(query.get("page_size") or 20), self.page_limit)
        page: dict[str, Any] = {"total_size": len(items)}
        if items:
            page[name] = items[begin : begin + size]
        if begin + size < len(items):
            page["next_page_token"] = str(begin + size)
        return page


def _checked(body: bytes, model: Any) -> dict[str, Any]:
    """Read a body, whose fields must be those of the API's model."""
    document: dict[str, Any] = json.loads(body)
    unknown = set(document) - set(model.attribute_map.values())
    if unknown:
        raise Refusal(400, f"unknown fields {sorted(unknown)} of {model.__name__}")
    long = [name for name in ("display_name", "description") if len(document.get(name, "")) > COLUMN_CHARACTERS]
    if long and model in (kfp_server_api.V2beta1Run, kfp_server_api.V2beta1RecurringRun):
        raise Refusal(500, "Internal Server Error")  # MySQL: data too long for column
    return document


def _uploaded_file(body: bytes, content_type: str) -> str:
    message = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    for part in message.walk():
        if part.get_param("name", header="content-disposition") == "uploadfile":
            return bytes(part.get_payload(decode=True)).decode()  # type: ignore[arg-type]
    raise Refusal(400, "Failed to read pipeline from file", upload=True)


def _found(items: dict[str, dict[str, Any]], identity: str) -> dict[str, Any]:
    if identity not in items:
        raise Refusal(404, f"{identity} not found")
    return items[identity]


def _id() -> str:
    return str(uuid.uuid4())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
