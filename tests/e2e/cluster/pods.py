"""Pods that are processes: what a predictor's container would do, done on this machine with nothing but what the pod is given.

The storage initializer downloads `storageUri`, the container starts `tidegate serve` with the variables of the document,
secrets by reference, and readiness is what the readiness probe answers.
"""

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.kubernetes_api.api_server import Document, Store
from tests.kubernetes_api.workloads import Pods
from tests.ports import free_port
from tidegate.storage import open_store

_REVISION = "tidegate.dev/revision"
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")


@dataclass
class Pod:
    """One process, started in the background; `answers` is what its readiness probe said last."""

    port: int
    revision: str
    answers: bool = False
    process: "subprocess.Popen[bytes] | None" = None
    ended: threading.Event = field(default_factory=threading.Event)


class ProcessPods(Pods):
    """Runs one process for each pod."""

    def __init__(self, store: Store, folder: Path, secrets: Mapping[str, Mapping[str, str]]) -> None:
        super().__init__(store)
        self._folder = folder
        self._secrets = secrets
        self.running: dict[str, Pod] = {}

    def ready(self, name: str, namespace: str, template: Document) -> bool:
        if name not in self.running:
            revision = template["metadata"]["labels"][_REVISION]
            self.running[name] = Pod(free_port(), revision)
            container = template["spec"]["containers"][0]
            threading.Thread(target=self._run, args=(name, container, self.running[name]), daemon=True).start()
        self.age[name] = 1_000 if self.running[name].answers else 0
        return super().ready(name, namespace, template)

    def remove(self, name: str, namespace: str) -> None:
        super().remove(name, namespace)
        pod = self.running.pop(name, None)
        if pod is not None:
            pod.ended.set()
            # The gateway is told first: endpoints go before pods do.
            threading.Timer(1.0, self._end, args=(pod,)).start()

    def stop(self) -> None:
        for pod in self.running.values():
            pod.ended.set()
            self._end(pod)

    def kill(self, revision: str) -> None:
        """Kill the processes of a revision, and let them stay dead."""
        for pod in self.running.values():
            if pod.revision == revision:
                pod.ended.set()
                self._end(pod)

    def _run(self, name: str, container: Document, pod: Pod) -> None:
        model = self._folder / name
        self._initialize_storage(container["storageUri"], model)
        ports = [f"--http-port={pod.port}", f"--grpc-port={free_port()}"]
        command = [sys.executable, "-m", "tidegate", "serve", str(model), *ports]
        with (self._folder / f"{name}.log").open("ab") as log:
            pod.process = subprocess.Popen(command, env=self._environment(container), stdout=log, stderr=log, cwd=self._folder)
        while not pod.ended.wait(0.1):
            pod.answers = pod.process.poll() is None and _is_ready(pod.port)

    def _initialize_storage(self, uri: str, to: Path) -> None:
        assert uri.endswith("/"), f"{uri} would also match its neighbours"
        store = open_store(uri.rstrip("/"))
        for key in store.list():
            (to / key).parent.mkdir(parents=True, exist_ok=True)
            (to / key).write_bytes(store.get(key).data)

    def _environment(self, container: Document) -> dict[str, str]:
        variables = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        for entry in container["env"]:
            reference = entry.get("valueFrom", {}).get("secretKeyRef")
            variables[entry["name"]] = self._secrets[reference["name"]][reference["key"]] if reference else entry["value"]
        return variables

    @staticmethod
    def _end(pod: Pod) -> None:
        deadline = time.monotonic() + 10
        while pod.process is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if pod.process is not None and pod.process.poll() is None:
            pod.process.terminate()
            try:
                pod.process.wait(10)
            except subprocess.TimeoutExpired:
                pod.process.kill()
                pod.process.wait()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
