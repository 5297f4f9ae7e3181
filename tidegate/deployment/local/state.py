"""The local target's state directory: what should run, what runs, and who runs it. Every write is atomic.

<workspace>/local/services/<name>.json   desired InferenceService documents, written by the target
<workspace>/local/status/<name>.json     what runs, written by the supervisor
<workspace>/local/supervisor.lock        held by the one supervisor
<workspace>/local/supervisor.json        the supervisor's process and Envoy's admin port
<workspace>/local/ports.json             ports, chosen once and kept
<workspace>/local/envoy/                 Envoy's configuration
<workspace>/local/logs/                  <service>-<revision>.log, envoy.log, supervisor.log
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tidegate.deployment.local.processes import started_at
from tidegate.errors import DeploymentError

Document = dict[str, Any]


class SupervisorRuns(DeploymentError):
    """Another process, `pid`, supervises the workspace; None while it has not said which."""

    def __init__(self, workspace: Path, pid: int | None) -> None:
        """Name the workspace and the process."""
        super().__init__(f"a supervisor runs already in {workspace} (pid {pid}); stop it with `tidegate local down`")
        self.pid = pid


class LocalState:
    """Reads and writes the state directory of one workspace."""

    def __init__(self, workspace: Path) -> None:
        """Name the paths; nothing is created yet."""
        self.root = workspace.resolve() / "local"
        self.services = self.root / "services"
        self.statuses = self.root / "status"
        self.logs = self.root / "logs"
        self.envoy = self.root / "envoy"

    def create(self) -> None:
        """Create the directories; raises DeploymentError if the workspace cannot be written."""
        try:
            for directory in (self.services, self.statuses, self.logs, self.envoy):
                directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise DeploymentError(f"workspace {self.root.parent}: cannot be written: {error.strerror}") from error

    def write_service(self, document: Document) -> None:
        """Make `document` desired, with the next resource version; the same spec again changes nothing."""
        self.create()
        path = self.services / f"{document['metadata']['name']}.json"
        with self._locked():
            current = read_json(path)
            if current is not None and _without_version(current) == _without_version(document):
                return
            version = self._next_version()
            write_json(path, {**document, "metadata": {**document["metadata"], "resourceVersion": str(version)}})

    def delete_service(self, name: str) -> None:
        """Remove the desired document of `name`, if there is one."""
        if self.services.is_dir():
            with self._locked():
                (self.services / f"{name}.json").unlink(missing_ok=True)

    def read_service(self, name: str) -> Document | None:
        """Return the desired document of `name`, or None; raises DeploymentError if it is not JSON."""
        return read_json(self.services / f"{name}.json")

    def service_names(self) -> list[str]:
        """Return the names of the desired services, sorted."""
        return sorted(path.stem for path in self.services.glob("[!.]*.json"))

    def read_status(self, name: str) -> Document | None:
        """Return the status that the supervisor last wrote for `name`, or None."""
        return read_json(self.statuses / f"{name}.json")

    def write_status(self, name: str, status: Document) -> None:
        """Write the status of `name` (supervisor only)."""
        write_json(self.statuses / f"{name}.json", status)

    def delete_status(self, name: str) -> None:
        """Remove the status of `name` (supervisor only)."""
        (self.statuses / f"{name}.json").unlink(missing_ok=True)

    def delete_statuses(self) -> None:
        """Remove what an earlier supervisor wrote: nothing of it runs any more (supervisor only)."""
        for path in self.statuses.iterdir():
            path.unlink()

    def read_supervisor(self) -> Document | None:
        """Return the running supervisor's record (`pid`, `admin_port`, ...), or None if none runs."""
        record = read_json(self.root / "supervisor.json")
        if record is None or started_at(record["pid"]) != record["started_at"]:
            return None
        return record

    def write_supervisor(self, record: Document) -> None:
        """Write the running supervisor's record (supervisor only)."""
        write_json(self.root / "supervisor.json", record)

    def delete_supervisor(self) -> None:
        """Remove the supervisor's record (supervisor only, at its end)."""
        (self.root / "supervisor.json").unlink(missing_ok=True)

    @contextmanager
    def supervisor_lock(self) -> Iterator[None]:
        """Hold the supervisor's lock; raises SupervisorRuns, which names the process that holds it, if another one does."""
        descriptor = os.open(self.root / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SupervisorRuns(self.root.parent, _holder(descriptor)) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {started_at(os.getpid())}".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def _next_version(self) -> int:
        counter = self.root / "resource-version.json"
        version = int((read_json(counter) or {"version": 0})["version"]) + 1
        write_json(counter, {"version": version})
        return version

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.root / "services.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def read_json(path: Path) -> Document | None:
    """Return the JSON object in `path`, or None if there is no such file; raises DeploymentError if it is no JSON object."""
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DeploymentError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(document, dict):
        raise DeploymentError(f"{path} holds a JSON {type(document).__name__}, not an object")
    return document


def write_json(path: Path, document: Document) -> None:
    """Write `document` to `path` atomically; raises DeploymentError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(document, indent=1, sort_keys=True))
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise DeploymentError(f"cannot write {path}: {error.strerror}") from error


def _holder(descriptor: int) -> int | None:
    pid, _, started = os.pread(descriptor, 64, 0).decode().partition(" ")
    # A holder that died, or whose pid another process has now, is not the one.
    return int(pid) if pid and str(started_at(int(pid))) == started else None


def _without_version(document: Document) -> Document:
    metadata = {key: value for key, value in document.get("metadata", {}).items() if key != "resourceVersion"}
    return {**document, "metadata": metadata}
