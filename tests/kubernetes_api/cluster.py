"""A cluster for tests: the API server, KServe's webhooks, and its controllers, in threads of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.kubernetes_api.api_server import ApiServer, Document, Store
from tests.kubernetes_api.knative_mode import KnativeMode
from tests.kubernetes_api.standard_mode import StandardMode
from tests.kubernetes_api.webhook import check_schema, set_defaults, validate
from tests.kubernetes_api.workloads import Pods
from tidegate.deployment.kserve.connection import Connection

ISVC = "inferenceservices.serving.kserve.io"
_FINALIZER = "inferenceservice.finalizers"
_TICK_SECONDS = 0.004


class Cluster:
    """KServe on a small API server."""

    def __init__(self) -> None:
        self.api = ApiServer()
        self.store: Store = self.api.store
        self.store.admissions[ISVC] = [check_schema, set_defaults, validate]
        self.pods = Pods(self.store)
        self.standard = StandardMode(self.store, self.pods)
        self.knative = KnativeMode(self.store, self.pods)
        self.paused = threading.Event()
        self.failure: BaseException | None = None
        self._known: dict[tuple[str, str, str], Document] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def running(self) -> Iterator["Cluster"]:
        with self.api.running():
            self._thread.start()
            try:
                yield self
            finally:
                self._ending.set()
                self._thread.join(10)
        if self.failure is not None:
            raise self.failure

    def connection(self, *, patience: float = 10.0) -> Connection:
        return Connection(lambda: client(self.api.url, self.api.token), patience=patience)

    def live(self, name: str, namespace: str = "default") -> Document:
        return self.store.read(ISVC, namespace, name)

    def edit(self, name: str, change: Any, manager: str = "kubectl-edit") -> None:
        self.store.edit(ISVC, "default", name, change, manager)

    def tick(self) -> None:
        with self.store.lock:
            living = {key: found for key, found in self.store.objects.items() if key[0] == ISVC}
            for key, isvc in living.items():
                if isvc["metadata"].get("deletionTimestamp"):
                    self._forget(isvc)
                    self.store.replace(ISVC, {**isvc, "metadata": {**isvc["metadata"], "finalizers": []}}, "manager")
                elif _FINALIZER not in (isvc["metadata"].get("finalizers") or ()):
                    metadata = {**isvc["metadata"], "finalizers": [_FINALIZER]}
                    self.store.replace(ISVC, {**isvc, "metadata": metadata}, "manager")
                else:
                    self._mode(isvc).tick(self.store.read(*key))

    def _run(self) -> None:
        try:
            while not self._ending.wait(_TICK_SECONDS):
                if not self.paused.is_set():
                    self.tick()
        except BaseException as error:  # a broken simulation must fail the test, not hang it
            self.failure = error

    def _forget(self, isvc: Document) -> None:
        self._mode(isvc).forget(isvc)

    def _mode(self, isvc: Document) -> StandardMode | KnativeMode:
        mode = isvc["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
        return self.standard if mode == "Standard" else self.knative


def client(url: str, token: str = "") -> Any:
    """Return a client of the kubernetes package for a test server."""
    from kubernetes.client import ApiClient, Configuration

    configuration = Configuration(host=url)
    configuration.retries = False
    if token:
        configuration.api_key = {"authorization": f"Bearer {token}"}
    return ApiClient(configuration)
