"""The same graph behind KServe's Python server: `python kserve_peer.py MODEL_ONNX PORT`; needs the `kserve` package."""

import sys
from typing import Any

import onnxruntime as ort

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class _Peer(Model):  # type: ignore[misc]
    def __init__(self, graph: str) -> None:
        super().__init__("bench")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(graph, options)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        feeds = {tensor.name: tensor.as_numpy().reshape(-1, 1) for tensor in payload.inputs}
        (probability,) = self._session.run(["probability"], feeds)
        output = InferOutput("probability", list(probability.shape), "FP32")
        binary = _is_asked_in_binary(payload)
        output.set_data_from_numpy(probability, binary_data=binary)
        # KServe refuses to answer without an id.
        return InferResponse(payload.id or "none", self.name, [output], use_binary_outputs=binary)


def _is_asked_in_binary(payload: InferRequest) -> bool:
    outputs = payload.request_outputs or []
    return any((output.parameters or {}).get("binary_data") for output in outputs)


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1).start([_Peer(sys.argv[1])])
