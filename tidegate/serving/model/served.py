"""A served model: answers one request by checking it, looking its features up, running the graph and logging the rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns, time_ns

from tidegate.clock import Clock
from tidegate.errors import in_one_line
from tidegate.packaging.format.manifest import LABEL, PROBABILITY, Manifest, TensorSpec
from tidegate.packaging.labels import Labels
from tidegate.serving.inference_log.log import InferenceLog
from tidegate.serving.inference_log.table import LogRecord
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.model.engine import Engine
from tidegate.serving.model.lookup import FeatureLookup
from tidegate.serving.model.validation import CheckedInputs, InputValidator
from tidegate.serving.protocol.errors import RequestError, bad_request
from tidegate.serving.protocol.request import InferAnswer, InferRequest
from tidegate.serving.protocol.tensors import Array


@dataclass(frozen=True, slots=True)
class Identity:
    """What a model is served as."""

    name: str
    version: str
    revision: str


class ServedModel:
    """One model package and all that answers for it.

    Attributes:
        ready: Whether this worker wants requests: from the golden replay until it is asked to stop.
        inputs: What callers send.
        outputs: What is answered.
    """

    def __init__(
        self,
        manifest: Manifest,
        identity: Identity,
        *,
        engine: Engine,
        lookup: FeatureLookup | None,
        log: InferenceLog | None,
        clock: Clock,
        metrics: WorkerMetrics,
        max_rows: int,
    ) -> None:
        """Join the parts; `lookup` may be None only for a package without looked-up features."""
        self.manifest = manifest
        self.identity = identity
        self.metrics = metrics
        self._engine = engine
        self._lookup = lookup
        self._log = log
        self._clock = clock
        self._validator = InputValidator(manifest, max_rows=max_rows, count_unusual=metrics.count_unusual)
        self._labels = Labels(manifest)
        self._is_binary = manifest.task == "binary-classification"
        self.ready = False
        self.inputs = _request_specs(manifest)
        self.outputs = _output_specs(manifest)
        self._output_names = frozenset(spec.name for spec in self.outputs)

    async def answer(self, request: InferRequest, started: int) -> InferAnswer:
        """Return the outputs for a request that arrived at `started` (`perf_counter_ns`); only a lookup may wait.

        Raises:
            RequestError: 400 if the request does not fit the model, 503 if a required feature is missing, 500 if the
                graph cannot be run on it.
        """
        self._check_wanted(request.outputs)
        inputs = self._validator.check(request.tensors)
        record = LogRecord(request.id, inputs.rows, self._clock.now(), time_ns(), 200, 0, inputs.keys, inputs.tensors)
        try:
            outputs = await self._outputs(inputs, record)
        except RequestError as error:
            record.status, record.error = error.status, str(error)
            self._write_down(record, started)
            raise
        record.outputs = outputs
        self._write_down(record, started)
        return InferAnswer(request.id, _selected(outputs, request.outputs))

    def _write_down(self, record: LogRecord, started: int) -> None:
        record.latency_us = (perf_counter_ns() - started) // 1000
        if self._log is not None:
            self._log.add(record)

    def _check_wanted(self, names: Sequence[str] | None) -> None:
        for name in names or ():
            if name not in self._output_names:
                allowed = ", ".join(spec.name for spec in self.outputs)
                raise bad_request(f"output {name!r} is none of this model's; it answers {allowed}")

    async def _outputs(self, inputs: CheckedInputs, record: LogRecord) -> dict[str, Array]:
        if self._lookup is not None and not inputs.features_given:
            features = await self._lookup.read(inputs.keys, record.event_time)
            inputs.tensors.update(features.tensors)
            record.times = features.times
        try:
            outputs = self._engine.run(inputs.tensors)
        except Exception as error:
            raise RequestError(500, f"the model failed on this input: {in_one_line(error)}") from error
        if self._labels.exist:
            outputs[LABEL] = self._labels.of(outputs)
        if self._is_binary:
            self.metrics.count_probabilities(outputs[PROBABILITY])
        else:
            self.metrics.count_predictions(inputs.rows)
        return outputs


def _request_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """Return what callers send: entity keys that are no inputs themselves, and request inputs."""
    sent = [spec for spec in manifest.signature.inputs if spec.source == "request"]
    names = {spec.name for spec in sent}
    keys = manifest.features.join_keys if manifest.features else ()
    return (*(TensorSpec(name=key, datatype="BYTES", shape=(-1,)) for key in keys if key not in names), *sent)


def _output_specs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """Return what is answered: the graph's outputs and, of a classification, the label."""
    outputs = manifest.signature.outputs
    return (*outputs, TensorSpec(name=LABEL, datatype="BYTES", shape=(-1,))) if Labels(manifest).exist else outputs


def _selected(outputs: dict[str, Array], names: Sequence[str] | None) -> dict[str, Array]:
    return outputs if names is None else {name: outputs[name] for name in names}
