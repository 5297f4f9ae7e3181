"""What the protocol tells of server and model, over REST and gRPC alike."""

from typing import Any

import tidegate
from tidegate.packaging.format.manifest import TensorSpec
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.model.served import ServedModel
from tidegate.serving.protocol.errors import RequestError


def server_metadata(endpoint: Endpoint) -> dict[str, Any]:
    """Return the server's name, version and extensions."""
    extensions = ["binary_tensor_data"]
    if endpoint.repository is not None:
        extensions.append("model_repository")
    return {"name": "tidegate", "version": tidegate.__version__, "extensions": extensions}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """Return what a model takes and answers."""
    return {
        "name": model.identity.name,
        "versions": [model.identity.version],
        "platform": "onnxruntime_onnx",
        "inputs": [_tensor_metadata(spec) for spec in model.inputs],
        "outputs": [_tensor_metadata(spec) for spec in model.outputs],
    }


def unknown_model(name: str, endpoint: Endpoint) -> RequestError:
    """Return the refusal (404) of a request for another model."""
    return RequestError(404, f"unknown model {name!r}; this server serves {endpoint.name!r}")


def unknown_version(version: str, name: str, model: ServedModel) -> RequestError:
    """Return the refusal (404) of a request for another version of the model."""
    served = model.identity.version
    return RequestError(404, f"unknown version {version!r} of model {name!r}; this server serves version {served!r}")


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
