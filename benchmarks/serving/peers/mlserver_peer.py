"""The graph behind MLServer, as a runtime of its own; MLServer finds it on the Python path. Its codec reads the tensors."""

from graph import Graph  # type: ignore[import-not-found]  # it lies beside this file
from mlserver import MLModel  # type: ignore[import-not-found]  # of the peer's own environment
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]


class Peer(MLModel):  # type: ignore[misc]
    """Serves `parameters.uri`, and answers with the output `parameters.extra.output`."""

    async def load(self) -> bool:
        """Load the graph."""
        parameters = self.settings.parameters
        self._output = parameters.extra["output"]
        self._graph = Graph(parameters.uri, self._output)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        answer = self._graph.run([NumpyCodec.decode_input(tensor) for tensor in payload.inputs])
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output(self._output, answer)])
