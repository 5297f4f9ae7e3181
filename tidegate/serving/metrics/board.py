"""What each worker of a server is doing now, whatever version it serves: whether it answers, its connections, its process."""

import os

from tidegate.serving.metrics.layout import PROCESS_ID, WORKER_LAYOUT
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.metrics.names import CONNECTIONS, SERVER_LABELS, WORKERS_READY

_READY, _CONNECTIONS, _PROCESS = (WORKER_LAYOUT.at[name] for name in (WORKERS_READY, CONNECTIONS, PROCESS_ID))


class WorkerBoard:
    """A row of cells for each worker; each writes its own, and their parent those of a worker that died.

    Attributes:
        memory: The cells themselves, which a scrape renders.
    """

    def __init__(self, workers: int, labels: dict[str, str]) -> None:
        """Begin in memory that only workers forked from this process share; of `labels` those of a server are kept."""
        self.memory = MetricsMemory(WORKER_LAYOUT, workers, {name: labels[name] for name in SERVER_LABELS if name in labels})

    def enter(self, worker: int) -> None:
        """Say that this process is the worker of that number."""
        self.memory.slab(worker)[_PROCESS] = os.getpid()

    def set_ready(self, worker: int, ready: bool) -> None:
        """Show whether a worker answers requests."""
        self.memory.slab(worker)[_READY] = int(ready)

    def is_ready(self, worker: int) -> bool:
        """Return whether a worker said that it answers requests."""
        return bool(self.memory.slab(worker)[_READY])

    def count_connections(self, worker: int, change: int) -> None:
        """Show that connections were opened, or closed if `change` is negative."""
        self.memory.slab(worker)[_CONNECTIONS] += change

    def processes(self) -> list[tuple[int, int]]:
        """Return number and process id of each worker that is there."""
        entered = ((worker, self.memory.slab(worker)[_PROCESS]) for worker in range(self.memory.workers))
        return [(worker, process) for worker, process in entered if process]

    def forget(self, worker: int) -> None:
        """Reset what a dead worker cannot reset itself."""
        cells = self.memory.slab(worker)
        cells[_READY] = cells[_CONNECTIONS] = cells[_PROCESS] = 0
