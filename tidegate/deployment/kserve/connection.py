"""The connection to a Kubernetes API server: plain documents, a time limit on everything, and one clear line for each refusal.

    connection = Connection.open()
    live = connection.read(INFERENCE_SERVICES, "default", "flights-late")       # None if there is none
    connection.replace(INFERENCE_SERVICES, live)                               # Stale if somebody wrote meanwhile

What passes by itself (a connection that breaks, 429, 5xx) is tried again for as long as `patience` lasts. A write is sent
again only where that is safe: a replacement names the resourceVersion it is based on, so it cannot be done twice.
"""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidegate.errors import DeploymentError

Document = dict[str, Any]

FIELD_MANAGER = "tidegate"
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_PASSING = (408, 429, 500, 502, 503, 504)


class Stale(DeploymentError):
    """Somebody else wrote the object since it was read, or made it first; read it again and decide again."""


class Unreachable(DeploymentError):
    """The API server did not answer within the time that was given."""


class Forbidden(DeploymentError):
    """The account may not do this."""


class NoSuchApi(DeploymentError):
    """The cluster does not know this kind of object: what brings it is not installed."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, by the path under which the API server keeps it, and by what brings it to a cluster."""

    group: str  # "" for Kubernetes' core
    version: str
    plural: str
    brought_by: str = "Kubernetes"

    def path(self, namespace: str, name: str = "", part: str = "") -> str:
        """Return the URL path of one object, of all in a namespace, or of a part of one, such as its log."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return "/".join(filter(None, (f"{root}/namespaces/{namespace}/{self.plural}", name, part)))

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


INFERENCE_SERVICES = Resource("serving.kserve.io", "v1beta1", "inferenceservices", "KServe")
DEPLOYMENTS = Resource("apps", "v1", "deployments")
PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
HTTP_ROUTES = Resource("gateway.networking.k8s.io", "v1", "httproutes", "Gateway API")
SCALED_OBJECTS = Resource("keda.sh", "v1alpha1", "scaledobjects", "KEDA")
TRIGGER_AUTHENTICATIONS = Resource("keda.sh", "v1alpha1", "triggerauthentications", "KEDA")
KNATIVE_REVISIONS = Resource("serving.knative.dev", "v1", "revisions", "Knative Serving")


class Connection:
    """Reads and writes documents of one cluster; safe to share between threads."""

    def __init__(self, load: Callable[[], Any], *, patience: float = 60.0) -> None:
        """Connect on first use.

        Args:
            load: Makes a client of the kubernetes package from the configuration at hand; called again when a token expired.
            patience: Seconds for which a request that fails in passing is tried again.
        """
        self._session = _Session(load)
        self._patience = patience

    @classmethod
    def open(cls) -> "Connection":
        """Connect as the pod's service account, or as the current context of the kubeconfig.

        Raises:
            DeploymentError: There is neither, at the first request.
        """
        from tidegate.deployment.kserve.configuration import load_client

        return cls(load_client)

    def patient_for(self, seconds: float) -> "Connection":
        """Return the same connection, whose requests give up after `seconds`."""
        impatient = Connection(self._session.load, patience=max(seconds, 0.0))
        impatient._session = self._session
        return impatient

    def read(self, resource: Resource, namespace: str, name: str) -> Document | None:
        """Return an object, or None if there is none; raises NoSuchApi if there can be none."""
        found = self._send("GET", resource, namespace, name, absent=True)
        return None if found is None else dict(found)

    def list(
        self, resource: Resource, namespace: str, labels: dict[str, str], *, fields: dict[str, str] | None = None
    ) -> list[Document]:
        """Return the objects that carry all of `labels`, and whose `fields` have these values."""
        query = {"labelSelector": _selector(labels), "fieldSelector": _selector(fields or {})}
        return list(
            self._send("GET", resource, namespace, query={key: value for key, value in query.items() if value})["items"]
        )

    def create(self, resource: Resource, document: Document) -> Document:
        """Make an object; raises Stale if there is one of that name."""
        return dict(self._send("POST", resource, _namespace(document), query=_as_manager(), body=document))

    def replace(self, resource: Resource, document: Document) -> Document:
        """Replace an object as it was read; raises Stale if it changed or is gone since."""
        metadata = document["metadata"]
        if not metadata.get("resourceVersion"):
            raise ValueError("a replacement names the resourceVersion that it is based on")
        sent = self._send("PUT", resource, metadata["namespace"], metadata["name"], _as_manager(), document, absent=True)
        if sent is None:
            raise Stale(f"{resource} {metadata['name']} is gone since it was read")
        return dict(sent)

    def delete(self, resource: Resource, document: Document) -> None:
        """Delete the object that was read, and what hangs on it; one that is gone already is no error."""
        metadata = document["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": metadata["uid"]},
        }
        self._send("DELETE", resource, metadata["namespace"], metadata["name"], body=body, absent=True)

    def log(self, namespace: str, pod: str, container: str, *, previous: bool, lines: int) -> str:
        """Return the last lines of a container's log; "" if it has none, or the account may not read it."""
        query = {"container": container, "previous": str(previous).lower(), "tailLines": str(lines)}
        try:
            return str(self._send("GET", PODS, namespace, f"{pod}/log", query, absent=True, text=True) or "")
        except DeploymentError:
            return ""

    def _send(
        self,
        method: str,
        resource: Resource,
        namespace: str,
        name: str = "",
        query: dict[str, str] | None = None,
        body: Document | None = None,
        *,
        absent: bool = False,
        text: bool = False,
    ) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + self._patience
        pause, renewed = _FIRST_PAUSE, False
        while True:
            try:
                return self._session.client().call_api(
                    resource.path(namespace, name),
                    method,
                    query_params=list((query or {}).items()),
                    header_params={"Accept": "*/*" if text else "application/json", "Content-Type": "application/json"},
                    body=body,
                    response_type="str" if text else "object",
                    auth_settings=["BearerToken"],
                    _return_http_data_only=True,
                    _request_timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                )
            except ApiException as error:
                refusal = _Refusal.of(error)
                if refusal.status == 401 and not renewed:
                    renewed = True
                    self._session.renew()
                    continue
                if refusal.status == 404 and absent and not refusal.unknown_api:
                    return None
                if refusal.status not in _PASSING:
                    raise refusal.as_error(method, resource, namespace, name) from None
                reason, asked = refusal.message, refusal.retry_after
            except (HTTPError, OSError) as error:
                reason, asked = _broken(error), 0.0
            wanted = max(asked, pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads callers, guards nothing
            if time.monotonic() + wanted > deadline:
                raise Unreachable(f"the cluster's API server does not answer ({method} {resource}): {reason}")
            time.sleep(wanted)
            pause = min(pause * 2, _LONGEST_PAUSE)


class _Session:
    """The client in use, made when it is first needed."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self.load = load
        self._client: Any = None

    def client(self) -> Any:
        return self.renew() if self._client is None else self._client

    def renew(self) -> Any:
        self._client = self.load()
        return self._client


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What the API server said when it did not do what it was asked."""

    status: int
    message: str
    unknown_api: bool
    exists: bool
    retry_after: float

    @classmethod
    def of(cls, error: Any) -> "_Refusal":
        try:
            body = json.loads(error.body or "")
            known = isinstance(body, dict) and body.get("kind") == "Status"
        except ValueError:
            body, known = {}, False
        details = (body.get("details") or {}) if known else {}
        message = (body.get("message") if known else None) or error.body or error.reason or "no reason given"
        return cls(
            status=error.status or 0,
            message=" ".join(str(message).split())[:600],
            unknown_api=error.status == 404 and not details.get("name"),
            exists=known and body.get("reason") == "AlreadyExists",
            retry_after=_seconds((error.headers or {}).get("Retry-After")),
        )

    def as_error(self, method: str, resource: Resource, namespace: str, name: str) -> DeploymentError:
        what = f"{resource} {namespace}/{name}" if name else f"{resource} in {namespace}"
        if self.status == 409:
            return Stale(f"{what} was written by somebody else meanwhile: {self.message}")
        if self.unknown_api:
            return NoSuchApi(f"the cluster does not know {resource}: {resource.brought_by} is not installed")
        if self.status == 401:
            return DeploymentError(
                f"the cluster's API server does not accept the credentials ({self.message}); renew the kubeconfig or the token"
            )
        if self.status == 403 and "denied the request" not in self.message:
            return Forbidden(
                f"the account may not {_VERBS[method]} {resource} in namespace {namespace}: {self.message}; "
                "bind it to the role under kserve/"
            )
        remedy = f"; upgrade {resource.brought_by}" if "unknown field" in self.message else ""
        return DeploymentError(f"the cluster refused to {_VERBS[method]} {what}: {self.message}{remedy}")


_VERBS = {"GET": "read", "POST": "create", "PUT": "update", "DELETE": "delete"}


def _selector(wanted: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))


def _namespace(document: Document) -> str:
    return str(document["metadata"]["namespace"])


def _as_manager() -> dict[str, str]:
    """Return what goes with each write: who writes, and that a field which the cluster does not know is an error."""
    return {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}


def _seconds(header: str | None) -> float:
    try:
        return max(float(header or 0), 0.0)
    except ValueError:
        return 0.0


def _broken(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
