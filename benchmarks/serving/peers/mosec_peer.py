"""The graph behind mosec: `MOSEC_PORT=… BENCH_GRAPH=… BENCH_OUTPUT=… BENCH_BATCH=… python mosec_peer.py`.

mosec has a protocol of its own, so what a request holds is the worker's business: the same JSON document as the others get,
read by msgspec into typed objects; or the same tensors as MessagePack, mosec's documented way for binary data.
"""

import os
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from graph import Graph  # type: ignore[import-not-found]  # it lies beside this file, which runs as a script
from mosec import Server, Worker  # type: ignore[import-not-found]  # of the peer's own environment

_GRAPH, _OUTPUT, _MAX_BATCH = os.environ["BENCH_GRAPH"], os.environ["BENCH_OUTPUT"], int(os.environ["BENCH_BATCH"])
_WAIT_MS = 1  # the least that mosec can wait for a batch


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[float] | bytes


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: str = ""


class _JsonTensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class _JsonRequest(msgspec.Struct):
    inputs: list[_JsonTensor]
    id: str = ""


_read_json = msgspec.json.Decoder(_JsonRequest).decode
_read_msgpack = msgspec.msgpack.Decoder(_Request).decode
_write_json = msgspec.json.Encoder().encode
_write_msgpack = msgspec.msgpack.Encoder().encode


class Peer(Worker):  # type: ignore[misc]
    """One worker; with BENCH_BATCH above 1, mosec joins requests and the worker runs them together."""

    def __init__(self) -> None:
        """Load the graph."""
        super().__init__()
        self._graph = Graph(_GRAPH, _OUTPUT)

    def deserialize(self, data: bytes) -> Any:
        """Read a request."""
        return _read_json(data) if data[:1] == b"{" else _read_msgpack(data)

    def serialize(self, data: Any) -> bytes:
        """Write an answer, in the way the request came."""
        request, answer = data
        is_json = isinstance(request.inputs[0].data, list)
        values = answer.ravel().tolist() if is_json else answer.tobytes()
        output = {"name": _OUTPUT, "datatype": "FP32", "shape": answer.shape, "data": values}
        document = {"model_name": "bench", "id": request.id, "outputs": [output]}
        return bytes(_write_json(document) if is_json else _write_msgpack(document))

    def forward(self, data: Any) -> Any:
        """Answer one request, or several at once."""
        if _MAX_BATCH == 1:
            return data, self._graph.run(_tensors(data))
        joined = [np.concatenate(parts) for parts in zip(*map(_tensors, data), strict=True)]
        answers = self._graph.run(joined)
        ends = np.cumsum([request.inputs[0].shape[0] for request in data])[:-1]
        return list(zip(data, np.split(answers, ends), strict=True))


def _tensors(request: _Request | _JsonRequest) -> Sequence[np.ndarray[Any, np.dtype[Any]]]:
    return [
        (
            np.array(tensor.data, np.float32) if isinstance(tensor.data, list) else np.frombuffer(tensor.data, np.float32)
        ).reshape(tensor.shape)
        for tensor in request.inputs
    ]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Peer, num=1, max_batch_size=_MAX_BATCH, max_wait_time=_WAIT_MS)
    server.run()
