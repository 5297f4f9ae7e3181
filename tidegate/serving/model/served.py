"""A served model: checks a request, looks its features up, has the graph run with others', and logs the rows."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns, time_ns
from typing import Any

from tidegate.clock import Clock
from tidegate.errors import in_one_line
from tidegate.packaging.format.manifest import LABEL, PROBABILITY, Manifest, TensorSpec
from tidegate.packaging.labels import Labels
from tidegate.serving.inference_log.record import LogRecord, RequestLog
from tidegate.serving.internal_errors import internal_error
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.names import NOT_LOGGED
from tidegate.serving.model.batching import Batcher, BatchLimits, Call
from tidegate.serving.model.engine import Engine
from tidegate.serving.model.feeds import Feeder
from tidegate.serving.model.lookup import FeatureLookup
from tidegate.serving.model.reading import Inputs, RequestReader
from tidegate.serving.protocol.errors import RequestError, bad_request
from tidegate.serving.protocol.request import InferAnswer, InferRequest, Reply
from tidegate.serving.protocol.tensors import Array
from tidegate.serving.tracing.spans import Tracer


@dataclass(frozen=True, slots=True)
class Identity:
    """What a model is served as."""

    name: str
    version: str
    revision: str


class ServedModel:
    """One model package and all that answers for it, on one event loop.

    Attributes:
        manifest: The package's.
        identity: What it is served as.
        metrics: Where its requests are counted.
        inputs: What callers send.
        outputs: What is answered.
        input_datatypes: The datatype of each input of the signature.
        output_datatypes: The datatype of each output.
        fallback: Why it runs on the CPU though its package asks for an accelerator; None if it does not.
    """

    def __init__(
        self,
        manifest: Manifest,
        identity: Identity,
        *,
        engine: Engine,
        lookup: FeatureLookup | None,
        log: RequestLog | None,
        clock: Clock,
        metrics: WorkerMetrics,
        max_rows: int,
        limits: BatchLimits,
        tracer: Tracer | None = None,
    ) -> None:
        """Join the parts; `lookup` may be None only for a package without looked-up features."""
        self.manifest = manifest
        self.identity = identity
        self.metrics = metrics
        self.inputs = _request_specs(manifest)
        self.outputs = _output_specs(manifest)
        self.fallback = engine.warning if engine.is_fallback else None
        self.input_datatypes = {spec.name: spec.datatype for spec in manifest.signature.inputs}
        self.output_datatypes = {spec.name: spec.datatype for spec in self.outputs}
        self._engine = engine
        self._lookup = lookup
        self._log = log
        self._clock = clock
        self._reader = RequestReader(manifest, max_rows=max_rows, count_unusual=metrics.count_unusual)
        self._feeder = Feeder(manifest)
        labels = Labels(manifest)
        self._labels = labels if labels.exist else None
        self._is_binary = manifest.task == "binary-classification"
        self._tracer = tracer
        run = self._run if tracer is None else tracer.timed(self._run)
        self._batcher = Batcher(run, limits, metrics, answered=self._answered, failed=self._failed)
        self._lookups: set[asyncio.Task[None]] = set()
        self._under_way = 0

    def submit(self, request: InferRequest, reply: Reply) -> None:
        """Answer a request; `reply` gets the answer, or a RequestError, before this returns or later.

        The error's status is 400 if the request does not fit the model, 429 if too many wait, 503 if a required feature is
        missing, 504 if it waited too long, 500 if the graph cannot be run on it.
        """
        if self._tracer is not None:
            reply = self._tracer.follow(request, reply)
        try:
            self._check_wanted(request.outputs)
            inputs = self._reader.read(request.tensors)
        except RequestError as error:
            reply(error)
            return
        self._under_way += 1
        if request.span is not None:
            request.span.mark("validate")
        call = Call(request, inputs, reply, self._clock.now())
        if self._lookup is None or inputs.features_given:
            self._queue(call)
        else:
            self._look_up(call, self._lookup)

    @property
    def idle(self) -> bool:
        """Whether every request that was submitted is answered."""
        return self._under_way == 0

    def close(self) -> None:
        """Write the log's last rows and let go of the graph; called from another thread than the loop's, once idle."""
        self._batcher.close()
        if self._log is not None:
            self._log.close()
        self.metrics.forget_gauges()
        del self._engine  # what is left is held by its own callbacks until it is collected; the graph is too large for that

    def _check_wanted(self, names: Sequence[str] | None) -> None:
        for name in names or ():
            if name not in self.output_datatypes:
                allowed = ", ".join(self.output_datatypes)
                raise bad_request(f"output {name!r} is none of this model's; it answers {allowed}")

    def _look_up(self, call: Call, lookup: FeatureLookup) -> None:
        """Look features up: at once if the store answers without waiting, as a file does; else in a task."""
        reading = self._with_features(call, lookup)
        if not lookup.waits:
            _finish_now(reading)
            return
        task = asyncio.get_running_loop().create_task(reading)
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _with_features(self, call: Call, lookup: FeatureLookup) -> None:
        try:
            features = await lookup.read(call.inputs.keys, call.event_time)
        except RequestError as error:
            self._failed(call, error)
            return
        self._feeder.add_features(call.inputs, features.tensors)
        call.times = features.times
        if call.request.span is not None:
            call.request.span.mark("lookup")
        self._queue(call)

    def _queue(self, call: Call) -> None:
        try:
            self._batcher.add(call)
        except RequestError as error:
            self._failed(call, error)

    def _run(self, requests: Sequence[Inputs]) -> dict[str, Array]:
        return self._engine.run_feeds(self._feeder.feeds(requests))

    def _answered(self, calls: Sequence[Call], outputs: dict[str, Array]) -> None:
        if self._tracer is not None:
            self._tracer.mark_run(calls)
        if self._labels is not None:
            outputs[LABEL] = self._labels.of(outputs)
        if self._is_binary:
            self.metrics.count_probabilities(outputs[PROBABILITY])
        else:
            self.metrics.count_predictions(sum(call.inputs.rows for call in calls))
        if len(calls) == 1:
            self._answer(calls[0], outputs)
            return
        start = 0
        for call in calls:
            end = start + call.inputs.rows
            self._answer(call, {name: array[start:end] for name, array in outputs.items()})
            start = end

    def _answer(self, call: Call, outputs: dict[str, Array]) -> None:
        wanted = call.request.outputs
        answer = InferAnswer(call.request.id, outputs if wanted is None else {name: outputs[name] for name in wanted})
        if self._log is None:
            self._finish(call, answer)
        elif self._log.audits:
            self._log.keep(self._record(call, 200, outputs), partial(self._kept, call, answer))
        else:
            self._log.add(self._record(call, 200, outputs))
            self._finish(call, answer)

    def _kept(self, call: Call, answer: InferAnswer, error: Exception | None) -> None:
        if error is None:
            self._finish(call, answer)
        else:
            self.metrics.count_rejected(NOT_LOGGED)
            self._finish(
                call, RequestError(503, f"the audit record could not be kept: {in_one_line(error)}; nothing is answered")
            )

    def _failed(self, call: Call, error: Exception) -> None:
        if not isinstance(error, RequestError):
            error = RequestError(500, f"the model failed on this input: {in_one_line(error)}")
        if self._log is not None:
            self._log.add(self._record(call, error.status, {}, str(error)))
        self._finish(call, error)

    def _finish(self, call: Call, outcome: InferAnswer | RequestError) -> None:
        self._under_way -= 1
        try:
            call.reply(outcome)
        except Exception as error:  # one answer that cannot be sent must not keep the batch's others back
            call.reply(internal_error(error, request=call.request.id))

    def _record(self, call: Call, status: int, outputs: dict[str, Array], error: str | None = None) -> LogRecord:
        """Return what is logged of a request: its inputs as they were sent, whatever a policy changed."""
        request, inputs = call.request, call.inputs
        row, columns = inputs.row, {}
        if row is None:
            columns = self._feeder.columns(inputs) | dict(inputs.as_sent)
        elif inputs.as_sent:
            row = self._feeder.row_as_sent(inputs)
        return LogRecord(
            request.id,
            inputs.rows,
            call.event_time,
            time_ns(),
            status,
            (perf_counter_ns() - request.started) // 1000,
            inputs.keys,
            columns,
            call.times,
            outputs,
            error,
            row,
        )


def _finish_now(reading: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits, without the cost of a task."""
    try:
        reading.send(None)
    except StopIteration:
        return
    reading.close()
    raise RuntimeError("a lookup that was said not to wait has waited")


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
