"""The model repository extension over REST, as the extension's document and KServe's own server write it.

Source: Triton Inference Server, "Model Repository Extension" (docs/protocol/extension_model_repository.md).
"""

from collections.abc import Callable
from typing import Any

import msgspec

from tidegate.serving.protocol.codec_json import encode_error
from tidegate.serving.protocol.errors import RequestError, bad_request
from tidegate.serving.repository.control import ModelState, RepositoryControl

PREFIX = "/v2/repository/"

RestReply = Callable[[int, bytes], None]
"""Called exactly once, on the loop, with the status and the JSON body."""


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class _LoadRequest(msgspec.Struct):
    parameters: dict[str, Any] = {}


def answer(repository: RepositoryControl, path: str, body: bytes, reply: RestReply) -> None:
    """Answer a POST to `path`, which begins with `PREFIX`, now or later; an empty `body` asks for nothing in particular."""

    def finish(found: list[ModelState] | str | RequestError) -> None:
        if isinstance(found, RequestError):
            reply(found.status, encode_error(str(found)))
        elif isinstance(found, str):
            reply(200, msgspec.json.encode({"name": name, action: True, "version": found}))
        else:
            reply(200, msgspec.json.encode(found))

    name, action = _target(path)
    try:
        if action == "index" and not name:
            repository.index(ready_only=_decoded(body, _IndexRequest).ready, reply=finish)
        elif action == "load":
            repository.load(name, _decoded(body, _LoadRequest).parameters, finish)
        elif action == "unload":
            _decoded(body, _LoadRequest)
            repository.unload(name, finish)
        else:
            finish(RequestError(404, f"unknown path {path[:200]!r}"))
    except RequestError as error:
        finish(error)


def _target(path: str) -> tuple[str, str]:
    """Return the model and what to do with it; of the index, no model."""
    name, _, action = path.removeprefix(PREFIX).removeprefix("models/").rpartition("/")
    return name, action


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise bad_request(f"request body: {error}; send a JSON object, or nothing") from error
