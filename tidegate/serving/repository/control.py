"""What REST and gRPC ask of the model repository extension, and what they are told."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

from tidegate.serving.protocol.errors import RequestError


class ModelState(msgspec.Struct, frozen=True):
    """One version in the repository's index, as the extension writes it.

    Attributes:
        name: The model's name in this server.
        version: A version's number.
        state: `READY` if it answers requests here.
        reason: Why it does not; empty if it does.
    """

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str = ""


IndexReply = Callable[[list[ModelState] | RequestError], None]
"""Called exactly once, on the loop, with the repository's versions or the refusal."""

LoadReply = Callable[[str | RequestError], None]
"""Called exactly once, on the loop: the version loaded or unloaded (empty if there was none), or the refusal."""


class RepositoryControl(Protocol):
    """Loads and unloads versions of the endpoint's model, in every worker of the server. All of it returns at once.

    A refusal is 400 if the parameters are wrong, 404 if there is no such model, version or alias, 409 if the package is
    damaged, not signed as demanded, or does not do here what it did where it was packaged, 503 if the store cannot be read or
    the server stops. The version that answered before then goes on answering.
    """

    def index(self, *, ready_only: bool, reply: IndexReply) -> None:
        """List every version of the model that the repository has, or only those that answer here."""

    def load(self, name: str, parameters: Mapping[str, Any], reply: LoadReply) -> None:
        """Let another version answer.

        Args:
            name: Must be the endpoint's.
            parameters: `version`, a number, or `alias`, such as `champion`, which is what is meant without either.
            reply: Called when every worker answers with that version, or none does.
        """

    def unload(self, name: str, reply: LoadReply) -> None:
        """Let no version answer."""
