"""The model repository extension's methods: index, load and unload, off unless the endpoint has a repository.

Triton's clients write a model's name into `model_name`; KServe's, whose messages have no repository name, into what is
`repository_name` here. Both are understood.
"""

from functools import partial
from typing import Any

from tidegate.serving.grpc_v2.calls import Call, Method
from tidegate.serving.grpc_v2.messages import methods_of
from tidegate.serving.grpc_v2.service import SERVICE, parsed
from tidegate.serving.grpc_v2.status import Refusal
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.repository.control import ModelState, RepositoryControl


class RepositoryService:
    """Passes the extension's calls on to the endpoint's repository."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Pass on to the repository that the endpoint has at the time of a call."""
        self._endpoint = endpoint
        self._messages = methods_of(SERVICE)

    def methods(self) -> dict[str, Method]:
        """Return the methods by path."""
        answers = {"RepositoryIndex": self._index, "RepositoryModelLoad": self._load, "RepositoryModelUnload": self._unload}
        return {f"/{SERVICE}/{name}": answer for name, answer in answers.items()}

    def _index(self, call: Call, message: bytes) -> None:
        request = parsed(self._messages["RepositoryIndex"][0], message)
        self._control().index(ready_only=request.ready, reply=partial(self._reply_index, call))

    def _load(self, call: Call, message: bytes) -> None:
        request = parsed(self._messages["RepositoryModelLoad"][0], message)
        parameters = {name: _value(parameter) for name, parameter in request.parameters.items()}
        name = request.model_name or request.repository_name
        fields = {"model_name": name, "is_loaded": True}
        self._control().load(name, parameters, partial(self._reply, call, "RepositoryModelLoad", fields))

    def _unload(self, call: Call, message: bytes) -> None:
        request = parsed(self._messages["RepositoryModelUnload"][0], message)
        name = request.model_name or request.repository_name
        fields = {"model_name": name, "is_unloaded": True}
        self._control().unload(name, partial(self._reply, call, "RepositoryModelUnload", fields))

    def _control(self) -> RepositoryControl:
        if self._endpoint.repository is None:
            raise RequestError(501, "the model repository extension is off; start the server with --repository to turn it on")
        return self._endpoint.repository

    def _reply_index(self, call: Call, outcome: list[ModelState] | RequestError) -> None:
        if isinstance(outcome, RequestError):
            call.refuse(Refusal.of(outcome))
            return
        models = [
            {"name": state.name, "version": state.version, "state": state.state, "reason": state.reason} for state in outcome
        ]
        call.answer(self._messages["RepositoryIndex"][1](models=models).SerializeToString())

    def _reply(self, call: Call, method: str, fields: dict[str, Any], outcome: str | RequestError) -> None:
        if isinstance(outcome, RequestError):
            call.refuse(Refusal.of(outcome))
        else:
            call.answer(self._messages[method][1](**fields).SerializeToString())


def _value(parameter: Any) -> Any:
    choice = parameter.WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameter, choice)
