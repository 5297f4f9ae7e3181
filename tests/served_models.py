"""Asks a served model as the protocols do, without a connection."""

import asyncio
from collections.abc import Mapping, Sequence
from time import perf_counter_ns

from tidegate.packaging.format.datatypes import DATATYPES
from tidegate.serving.model.served import ServedModel
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer, InferRequest
from tidegate.serving.protocol.tensors import Array, Tensor


def tensor_of(name: str, array: Array, datatype: str | None = None) -> Tensor:
    """Return a tensor as JSON brings it: flat data, and null for NaN."""
    values = [None if value != value else value for value in array.ravel().tolist()]
    return Tensor(name, datatype or DATATYPES[array.dtype], list(array.shape), values)


def sent(tensors: Mapping[str, Array]) -> list[Tensor]:
    """Return tensors as JSON brings them."""
    return [tensor_of(name, array) for name, array in tensors.items()]


async def answers(model: ServedModel, requests: Sequence[InferRequest]) -> list[InferAnswer | RequestError]:
    """Submit requests in one turn of the loop, and return what each was answered."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in requests]
    for request, future in zip(requests, futures, strict=True):
        request.arrived(perf_counter_ns(), 10**10)
        model.submit(request, future.set_result)
    return list(await asyncio.gather(*futures))


def answer_of(model: ServedModel, tensors: Mapping[str, Array], outputs: tuple[str, ...] | None = None) -> InferAnswer:
    """Return the answer to one request; raises the RequestError that it was refused with."""
    [outcome] = asyncio.run(answers(model, [InferRequest("f1", sent(tensors), outputs)]))
    if isinstance(outcome, RequestError):
        raise outcome
    return outcome
