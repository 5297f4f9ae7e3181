"""A small Kubernetes API server for tests: real HTTP, typed objects, optimistic concurrency, admission, outages on demand.

It behaves like kube-apiserver where Tidegate relies on it; `tests/integration/deployment/test_api_semantics.py` holds it and
a real kube-apiserver to the same expectations. It knows no RBAC, no API discovery, no patches and no server-side apply.
"""

import copy
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Document = dict[str, Any]
Key = tuple[str, str, str]  # resource, namespace, name
Admission = Callable[[Document | None, Document], None]  # the old object, the new one, which it may change

KINDS = {
    "inferenceservices.serving.kserve.io": ("serving.kserve.io/v1beta1", "InferenceService"),
    "revisions.serving.knative.dev": ("serving.knative.dev/v1", "Revision"),
    "services.serving.knative.dev": ("serving.knative.dev/v1", "Service"),
    "httproutes.gateway.networking.k8s.io": ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    "deployments.apps": ("apps/v1", "Deployment"),
    "scaledobjects.keda.sh": ("keda.sh/v1alpha1", "ScaledObject"),
    "triggerauthentications.keda.sh": ("keda.sh/v1alpha1", "TriggerAuthentication"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
}
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/(?P<version>[^/]+))/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>[^/]+))?"
)


class Refused(Exception):
    """The answer is a Status with this code."""

    def __init__(self, code: int, reason: str, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": {"name": name} if name else {},
            "code": code,
        }


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match: 'drop', 'lose' (done, but not answered), 'slow', a status."""

    what: str | int
    method: str = ""
    path: str = ""
    times: int = 1
    seconds: float = 0.0
    retry_after: str = ""


@dataclass
class Store:
    """The objects, as etcd and the API machinery keep them."""

    objects: dict[Key, Document] = field(default_factory=dict)
    logs: dict[tuple[str, str], str] = field(default_factory=dict)  # by pod and container
    admissions: dict[str, list[Admission]] = field(default_factory=dict)
    version: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def read(self, resource: str, namespace: str, name: str) -> Document:
        with self.lock:
            found = self.objects.get((resource, namespace, name))
            if found is None:
                raise Refused(404, "NotFound", f'{resource} "{name}" not found', name=name)
            return copy.deepcopy(found)

    def list(self, resource: str, namespace: str, selector: str = "", fields: str = "") -> list[Document]:
        wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
        paths = dict(part.split("=", 1) for part in fields.split(",") if part)
        with self.lock:
            return [
                copy.deepcopy(found)
                for (kind, where, _), found in sorted(self.objects.items())
                if (kind, where) == (resource, namespace)
                and wanted.items() <= (found["metadata"].get("labels") or {}).items()
                and all(_field(found, path) == value for path, value in paths.items())
            ]

    def create(self, resource: str, document: Document, manager: str = "") -> Document:
        with self.lock:
            document = copy.deepcopy(document)
            metadata = document["metadata"]
            key = (resource, metadata["namespace"], metadata["name"])
            if metadata.get("resourceVersion"):
                raise Refused(400, "BadRequest", "resourceVersion should not be set on objects to be created")
            if key in self.objects:
                raise Refused(409, "AlreadyExists", f'{resource} "{key[2]}" already exists', name=key[2])
            self._admit(resource, None, document)
            document.pop("status", None)
            document["apiVersion"], document["kind"] = KINDS[resource]
            metadata.update(uid=str(uuid.uuid4()), creationTimestamp=_now(), generation=1)
            metadata["managedFields"] = _managed(None, document, manager)
            return self._put(key, document)

    def replace(self, resource: str, document: Document, manager: str = "", part: str = "") -> Document:
        """Replace an object, or only its status; what a request may not change is kept, and an equal object is not written."""
        with self.lock:
            metadata = document["metadata"]
            key = (resource, metadata["namespace"], metadata["name"])
            old = self.read(*key)
            if metadata.get("resourceVersion", old["metadata"]["resourceVersion"]) != old["metadata"]["resourceVersion"]:
                message = f'Operation cannot be fulfilled on {resource} "{key[2]}": the object has been modified'
                raise Refused(409, "Conflict", message, name=key[2])
            if metadata.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
                raise Refused(409, "Conflict", "Precondition failed: UID in precondition does not match", name=key[2])
            new = copy.deepcopy(old) if part == "status" else copy.deepcopy(document)
            if part == "status":
                new["status"] = copy.deepcopy(document.get("status") or {})
            else:
                new["status"] = old.get("status") or {}
                for kept in ("uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp"):
                    new["metadata"].pop(kept, None)
                    if kept in old["metadata"]:
                        new["metadata"][kept] = old["metadata"][kept]
                new["apiVersion"], new["kind"] = KINDS[resource]
                self._admit(resource, old, new)
                if new.get("spec") != old.get("spec"):
                    new["metadata"]["generation"] = old["metadata"]["generation"] + 1
                new["metadata"]["managedFields"] = _managed(old, new, manager)
            if not new["status"]:
                del new["status"]
            if _without_times(new) == _without_times(old):
                return old
            if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
                del self.objects[key]
                return new
            return self._put(key, new)

    def delete(self, resource: str, namespace: str, name: str, uid: str = "") -> Document:
        with self.lock:
            old = self.read(resource, namespace, name)
            if uid and old["metadata"]["uid"] != uid:
                raise Refused(409, "Conflict", "Precondition failed: UID in precondition does not match", name=name)
            key = (resource, namespace, name)
            if old["metadata"].get("finalizers"):
                old["metadata"].setdefault("deletionTimestamp", _now())
                return self._put(key, old)
            del self.objects[key]
            self.version += 1
            return old

    def edit(self, resource: str, namespace: str, name: str, change: Callable[[Document], None], manager: str) -> Document:
        """Change an object as another manager would, with `kubectl edit`."""
        with self.lock:
            document = self.read(resource, namespace, name)
            change(document)
            return self.replace(resource, document, manager)

    def set_status(self, resource: str, document: Document, status: Document) -> None:
        """Write a status as a controller does, on the newest object."""
        with self.lock:
            metadata = document["metadata"]
            current = self.objects.get((resource, metadata["namespace"], metadata["name"]))
            if current is not None:
                self.replace(resource, {**current, "status": status}, "controller", "status")

    def _admit(self, resource: str, old: Document | None, new: Document) -> None:
        for admission in self.admissions.get(resource, ()):
            admission(old, new)

    def _put(self, key: Key, document: Document) -> Document:
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = document
        return copy.deepcopy(document)


class ApiServer:
    """Serves a `Store` on loopback."""

    def __init__(self) -> None:
        self.store = Store()
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.unknown: set[str] = set()  # resources whose API is not installed
        self.forbidden: set[tuple[str, str]] = set()  # method and resource
        self.token = ""  # when set, the only one that is accepted
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def writes(self) -> list[tuple[str, str]]:
        return [request for request in self.requests if request[0] != "GET"]

    @contextmanager
    def running(self) -> Iterator["ApiServer"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def fault_of(self, method: str, path: str) -> Fault | None:
        with self.store.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method in ("", method) and fault.path in path:
                    fault.times -= 1
                    return fault
        return None


def _handler(server: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            path = urlsplit(self.path).path
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.requests.append((self.command, path))
            fault = server.fault_of(self.command, path)
            if fault is not None and fault.what == "slow":
                time.sleep(fault.seconds)
            if fault is not None and fault.what == "drop":
                return self._hang_up()
            if fault is not None and isinstance(fault.what, int):
                headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                return self._answer(fault.what, Refused(fault.what, "Fault", "an outage").body, headers)
            try:
                code, answer = self._act(path, json.loads(body) if body else {})
            except Refused as refused:
                code, answer = refused.code, refused.body
            if fault is not None and fault.what == "lose":
                return self._hang_up()
            return self._answer(code, answer, {})

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - names given by http.server

        def _act(self, path: str, body: Document) -> tuple[int, Document | str]:
            match = _PATH.fullmatch(path)
            resource = "" if match is None else ".".join(filter(None, (match["plural"], match["group"])))
            if match is None or resource not in KINDS or resource in server.unknown:
                return 404, "404 page not found\n"
            if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
                raise Refused(401, "Unauthorized", "Unauthorized")
            namespace, name, part = match["namespace"], match["name"], match["part"] or ""
            if (self.command, resource) in server.forbidden:
                message = f'{resource} is forbidden: User "tester" cannot do this in the namespace "{namespace}"'
                raise Refused(403, "Forbidden", message, name=name or "")
            query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            manager = query.get("fieldManager", "unknown")
            if self.command == "POST":
                body["metadata"].setdefault("namespace", namespace)
                return 201, server.store.create(resource, body, manager)
            if self.command == "PUT":
                return 200, server.store.replace(resource, body, manager, part)
            if self.command == "DELETE":
                uid = (body.get("preconditions") or {}).get("uid", "")
                return 200, server.store.delete(resource, namespace, name, uid)
            if part == "log":
                server.store.read(resource, namespace, name)
                return 200, server.store.logs.get((name, query.get("container", "")), "")
            if name:
                return 200, server.store.read(resource, namespace, name)
            items = server.store.list(resource, namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            api_version, kind = KINDS[resource]
            metadata = {"resourceVersion": str(server.store.version)}
            return 200, {"kind": f"{kind}List", "apiVersion": api_version, "metadata": metadata, "items": items}

        def _answer(self, code: int, answer: Document | str, headers: dict[str, str]) -> None:
            text = isinstance(answer, str)
            data = answer.encode() if text else json.dumps(answer).encode()
            try:
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "text/plain" if text else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                self.close_connection = True

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _managed(old: Document | None, new: Document, manager: str) -> list[Document]:
    """Return managedFields: who wrote each field last. Lists are taken as one field, as atomic ones are."""
    owners: dict[tuple[str, ...], str] = {}
    times = {entry["manager"]: entry["time"] for entry in (old or {}).get("metadata", {}).get("managedFields") or ()}
    for entry in (old or {}).get("metadata", {}).get("managedFields") or ():
        for path in _paths_of(entry["fieldsV1"]):
            owners[path] = entry["manager"]
    before, after = dict(_leaves(old or {})), dict(_leaves(new))
    kept = {path: owners.get(path, manager) for path, value in after.items() if before.get(path, ...) == value}
    now = {**kept, **{path: manager for path in after if path not in kept}}
    if any(path not in kept for path in after) or manager not in times:
        times[manager] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        {
            "manager": name,
            "operation": "Update",
            "time": times.get(name, _now()),
            "fieldsType": "FieldsV1",
            "fieldsV1": _nested([path for path, owner in now.items() if owner == name]),
        }
        for name in sorted(set(now.values()))
    ]


def _leaves(document: Document) -> Iterator[tuple[tuple[str, ...], Any]]:
    metadata = document.get("metadata") or {}
    parts = {"metadata": {part: metadata.get(part) for part in ("labels", "annotations")}, "spec": document.get("spec")}
    stack: list[tuple[tuple[str, ...], Any]] = [((), parts)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict) and value:
            stack.extend(((*path, name), inner) for name, inner in value.items())
        elif value is not None:
            yield path, value


def _nested(paths: list[tuple[str, ...]]) -> Document:
    root: Document = {}
    for path in paths:
        inner = root
        for name in path:
            inner = inner.setdefault(f"f:{name}", {})
    return root


def _paths_of(fields: Document, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, inner in fields.items():
        here = (*path, name.removeprefix("f:"))
        if inner:
            yield from _paths_of(inner, here)
        else:
            yield here


def _without_times(document: Document) -> Document:
    metadata = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    return {**document, "metadata": metadata}


def _field(document: Document, path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = (value or {}).get(name)
    return value


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
