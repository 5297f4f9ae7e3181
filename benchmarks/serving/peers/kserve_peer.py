"""The graph behind KServe's Python server: `python kserve_peer.py GRAPH OUTPUT NAME HTTP_PORT GRPC_PORT`.

Its log lines for every request, which are on by default, are turned off.
"""

import logging
import sys
from typing import Any

from graph import Graph  # type: ignore[import-not-found]  # it lies beside this file, which runs as a script

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class _Peer(Model):  # type: ignore[misc]
    def __init__(self, graph: str, output: str, name: str) -> None:
        super().__init__(name)
        self._graph, self._output = Graph(graph, output), output
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        answer = self._graph.run([tensor.as_numpy() for tensor in payload.inputs])
        binary = payload.from_grpc or _is_asked_in_binary(payload)
        output = InferOutput(self._output, list(answer.shape), "FP32")
        output.set_data_from_numpy(answer, binary_data=binary)
        return InferResponse(payload.id, self.name, [output], use_binary_outputs=binary)


def _is_asked_in_binary(payload: InferRequest) -> bool:
    outputs = payload.request_outputs or []
    return any((output.parameters or {}).get("binary_data") for output in outputs)


if __name__ == "__main__":
    _graph, _output, _name, _http_port, _grpc_port = sys.argv[1:]
    _server = ModelServer(http_port=int(_http_port), grpc_port=int(_grpc_port), workers=1, enable_latency_logging=False)
    logging.getLogger("uvicorn.access").disabled = True
    _server.start([_Peer(_graph, _output, _name)])
