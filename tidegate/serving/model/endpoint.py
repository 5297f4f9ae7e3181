"""The place where one model is served: which version of it answers now, and whether requests are wanted."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tidegate.serving.protocol.errors import RequestError

if TYPE_CHECKING:
    from tidegate.serving.model.served import ServedModel
    from tidegate.serving.repository.control import RepositoryControl


class Endpoint:
    """What REST and gRPC ask for the model, once a request; a request that has begun keeps the model it was given.

    All of it belongs to the loop's thread.

    Attributes:
        name: The model's name in paths and requests, whatever version answers.
        model: What answers now; None before the first version is loaded, and after it was unloaded.
        ready: Whether requests are wanted. While a server drains they are not, yet those that come are still answered.
        repository: Loads and unloads versions; None where that is turned off.
    """

    __slots__ = ("_draining", "_watchers", "model", "name", "ready", "repository")

    def __init__(self, name: str) -> None:
        """Serve no version yet."""
        self.name = name
        self.model: ServedModel | None = None
        self.ready = False
        self.repository: RepositoryControl | None = None
        self._draining = False
        self._watchers: list[Callable[[], None]] = []

    def swap(self, model: "ServedModel | None") -> "ServedModel | None":
        """Let `model` answer from now on, or nothing if it is None; return what answered until now."""
        replaced, self.model = self.model, model
        self._announce()
        return replaced

    def drain(self) -> None:
        """Say that no more requests are wanted; it cannot be taken back."""
        self._draining = True
        self._announce()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` whenever `ready` or `model` may have changed, until the returned function is called."""
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def refusal(self) -> RequestError:
        """Return what a request is told while there is no model."""
        if self.repository is None:
            return RequestError(503, f"model {self.name!r} is not loaded yet; try again later")
        return RequestError(503, f"model {self.name!r} is not loaded; load it with POST /v2/repository/models/{self.name}/load")

    def _announce(self) -> None:
        self.ready = self.model is not None and not self._draining
        for changed in tuple(self._watchers):
            changed()
