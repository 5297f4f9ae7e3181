"""What the workers of one server are to serve, written where all of them read it, and how far each of them has come.

A version comes in two steps, so that no caller meets it before every worker can answer with it: first every worker opens it
beside the version that serves (`Plan.next`), and only then all of them let it answer (`Plan.serving`). A worker that is
started anew reads the plan, and so comes to where the others are. Files are replaced by renaming: a reader sees the old or
the new one, whole.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

_PLAN = "plan.json"
_LOCK = "lock"


class Version(msgspec.Struct, frozen=True):
    """A version of the model, and where its package lies.

    Attributes:
        name: What it is served as.
        digest: Of its package.
        package: The package's directory.
        fetched: Whether this server fetched it, and removes it once it is no longer needed.
    """

    name: str
    digest: str
    package: str
    fetched: bool = False


class Plan(msgspec.Struct, frozen=True):
    """What every worker is to do.

    Attributes:
        generation: Counts the plans; a worker that has come to this one says so in its report.
        serving: What answers; None if nothing shall.
        next: What is to be opened, but not to answer yet.
    """

    generation: int
    serving: Version | None
    next: Version | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why a version could not be opened: the status that its request for it is answered with, and the words."""

    status: int
    message: str


class Report(msgspec.Struct, frozen=True):
    """How far one worker has come; there is none before it is ready for the first time, nor after it has died.

    Attributes:
        generation: The last plan it has come to, whether or not it could open `next`; 0 if none.
        failure: Why it could not.
    """

    generation: int = 0
    failure: Failure | None = None


Stamp = tuple[int, int] | None


class PlanFolder:
    """The plan and the reports of one server, in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which must exist."""
        self.path = folder
        self._plan = folder / _PLAN

    def stamp(self) -> Stamp:
        """Return what differs from the last one as soon as there is another plan; cheap enough to be asked often."""
        try:
            found = self._plan.stat()
        except OSError:  # somebody cleans temporary files up: what is served goes on
            return None
        return found.st_ino, found.st_mtime_ns

    def plan(self) -> Plan:
        """Return the plan."""
        return msgspec.json.decode(self._plan.read_bytes(), type=Plan)

    def write(self, plan: Plan) -> None:
        """Replace the plan; only who holds the turn may."""
        self._replace(self._plan, msgspec.json.encode(plan))

    def report(self, worker: int, report: Report) -> None:
        """Say how far a worker has come."""
        self._replace(self._of(worker), msgspec.json.encode(report))

    def reported(self, worker: int) -> Report | None:
        """Return a worker's last report; None if there is none yet."""
        try:
            return msgspec.json.decode(self._of(worker).read_bytes(), type=Report)
        except FileNotFoundError:
            return None

    def forget(self, worker: int) -> bool:
        """Remove the report of a worker that has died; tell whether there was one."""
        try:
            self._of(worker).unlink()
        except OSError:
            return False
        return True

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Give True, and the right to change the plan, to one caller at a time, and False to all others meanwhile.

        The right ends with the process, however that ends.
        """
        descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _of(self, worker: int) -> Path:
        return self.path / f"worker-{worker}.json"

    def _replace(self, file: Path, content: bytes) -> None:
        fresh = file.with_name(f".{file.name}.{os.getpid()}")
        fresh.write_bytes(content)
        fresh.replace(file)
