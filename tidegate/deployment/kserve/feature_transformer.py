r"""A KServe transformer for predictors that look up no features, such as Triton: it adds them to a request, and passes it on.

    export TIDEGATE_PACKAGE=s3://flights/tidegate/models/flights-late/versions/1/
    export TIDEGATE_ONLINE_STORE=redis://redis.flights:6379/0
    python -m tidegate.deployment.kserve.feature_transformer --predictor_protocol=v2 \
        --model_name=flights-late --predictor_host=flights-late-predictor.flights

KServe adds the last two options and --http_port itself (pkg/apis/serving/v1beta1/transformer_custom.go, GetContainer; KServe
at aaac4e2). Checks, lookups, defaults and the label are those of Tidegate's own model server. What that does besides, this
does not: there is no inference log, so what is served this way cannot be watched for drift.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException

from kserve import InferInput, InferOutput, InferRequest, InferResponse, Model, ModelServer
from tidegate.clock import Clock, WallClock
from tidegate.errors import ServingError, TidegateError
from tidegate.features.online import OnlineReader
from tidegate.packaging.format.manifest import LABEL, PROBABILITY, SCORE_OUTPUTS, FeatureContract, Manifest
from tidegate.packaging.format.package import fetch_package, read_manifest
from tidegate.packaging.labels import Labels
from tidegate.serving.model.lookup import FeatureLookup, FeatureReader
from tidegate.serving.model.validation import InputValidator
from tidegate.serving.protocol.errors import RequestError, bad_request
from tidegate.serving.protocol.tensors import Array
from tidegate.serving.settings import ServeSettings

PACKAGE_VARIABLE = "TIDEGATE_PACKAGE"
ONLINE_STORE_VARIABLE = "TIDEGATE_ONLINE_STORE"


class FeatureTransformer(Model):  # type: ignore[misc]
    """Turns what callers send (entity keys and request inputs) into what the graph takes, and adds the label to its answer."""

    def __init__(self, name: str, manifest: Manifest, reader: FeatureReader, clock: Clock | None = None) -> None:
        """Stand in front of a predictor.

        Args:
            name: The model's name, here and at the predictor.
            manifest: Of the package that the predictor serves.
            reader: Where features come from.
            clock: Event time of the lookups; the wall by default.

        Raises:
            ServingError: The model looks up no features, so nothing is to be transformed.
        """
        super().__init__(name)
        contract = features_of(manifest)
        self._manifest = manifest
        self._clock = clock or WallClock()
        self._validator = InputValidator(manifest, max_rows=ServeSettings(package="").max_rows, count_unusual=_uncounted)
        self._lookup = FeatureLookup(contract, manifest.signature, reader, _uncounted)
        self._labels = Labels(manifest)
        self.ready = True

    async def preprocess(self, payload: Any, headers: Mapping[str, str] | None = None) -> InferRequest:
        """Return the request that the predictor gets; fails with 400 as the model server does, or 503 without features."""
        try:
            inputs = self._validator.check(_tensors(payload))
            if not inputs.features_given:
                inputs.tensors.update((await self._lookup.read(inputs.keys, self._clock.now())).tensors)
        except RequestError as error:
            raise HTTPException(error.status, str(error)) from error
        return InferRequest(
            model_name=self.name,
            request_id=payload.id,
            infer_inputs=[
                _input(spec.name, spec.datatype, inputs.tensors[spec.name]) for spec in self._manifest.signature.inputs
            ],
        )

    async def postprocess(self, result: Any, headers: Mapping[str, str] | None = None) -> InferResponse:
        """Return the predictor's answer and, of a classification, the label."""
        outputs = {output.name: output for output in result.outputs}
        score = SCORE_OUTPUTS[self._manifest.task] if self._labels.exist else LABEL
        if score in outputs and LABEL not in outputs:
            array = outputs[score].as_numpy()
            label = self._labels.of({score: array.reshape(-1) if score == PROBABILITY else array})
            result.outputs.append(InferOutput(name=LABEL, shape=list(label.shape), datatype="BYTES", data=label.tolist()))
        return result


def features_of(manifest: Manifest) -> FeatureContract:
    """Return what the model looks up; raises ServingError if that is nothing."""
    if manifest.features is None:
        raise ServingError(f"package {manifest.name} looks up no features; it needs no transformer")
    return manifest.features


def _tensors(payload: Any) -> dict[str, Array]:
    if not isinstance(payload, InferRequest):
        raise bad_request("the transformer speaks the V2 protocol only; post to /v2/models/NAME/infer")
    tensors = {}
    for given in payload.inputs:
        try:
            array = given.as_numpy()
        except (TypeError, ValueError) as error:
            raise bad_request(f"tensor {given.name!r}: data does not fit {given.datatype} {given.shape}: {error}") from None
        tensors[given.name] = _text(array) if given.datatype == "BYTES" else array
    return tensors


def _text(array: Array) -> Array:
    """Binary data arrives as bytes, which Tidegate's tensors never are."""
    return np.array([v.decode() if isinstance(v, bytes) else v for v in array.ravel()], object).reshape(array.shape)


def _input(name: str, datatype: str, array: Array) -> InferInput:
    """Binary, since JSON has no NaN, which is how an optional feature is missing."""
    tensor = InferInput(name=name, shape=list(array.shape), datatype=datatype)
    tensor.set_data_from_numpy(array, binary_data=True)
    return tensor


def _uncounted(name: str, count: int) -> None:
    """Unusual and missing values are counted by the model server's metrics, which the transformer has not."""


def main() -> None:
    """Serve until SIGTERM; what cannot start says why in one line."""
    from kserve.model_server import args

    try:
        package = _required(PACKAGE_VARIABLE, "the package that the predictor serves")
        online_store = _required(ONLINE_STORE_VARIABLE, "where features are looked up")
        with tempfile.TemporaryDirectory(prefix="tidegate-transformer-") as folder:
            manifest = read_manifest(fetch_package(package, Path(folder) / "package"))
        reader = OnlineReader.open(online_store, features_of(manifest))
        transformer = FeatureTransformer(args.model_name, manifest, reader)
    except TidegateError as error:
        sys.exit(f"error: {error}")
    ModelServer().start([transformer])


def _required(variable: str, meaning: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise ServingError(f"{variable} is not set; it says {meaning}")
    return value


if __name__ == "__main__":
    main()
