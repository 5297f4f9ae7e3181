"""The serving section of the project file: how the model server answers, what it refuses, and what it writes down."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tidegate.project.cluster import HttpAddress
from tidegate.project.misfit import misfit
from tidegate.project.types import Count, Seconds, Section, Share, Text, distinct

OutOfRange = Literal["count", "reject", "clamp"]
UnknownCategory = Literal["count", "reject", "impute"]
Missing = Literal["as-trained", "impute"]


def _without_commas(columns: tuple[str, ...]) -> tuple[str, ...]:
    for column in columns:
        if "," in column:
            raise ValueError(f"{column!r} holds a comma; name one column each")
    return columns


class InferenceLogSection(Section):
    """How predictions are written down."""

    mode: Literal["async", "audit"] = Field(
        default="async", description="async: never delays a request; audit: answers only what is recorded durably."
    )
    sample: float = Field(default=1.0, ge=0.0001, le=1, description="Share of requests that are logged.")
    redact: Annotated[tuple[Text, ...], AfterValidator(distinct), AfterValidator(_without_commas)] = Field(
        default=(), description="Columns to leave empty, or to hash as NAME:hash."
    )
    rotate_rows: int = Field(default=5000, ge=1, description="A Parquet file is closed after this many rows.")
    rotate_seconds: Seconds = Field(default=5.0, ge=0.01, le=86_400, description="... or after this time.")
    queue_rows: int = Field(default=50_000, ge=1, description="Rows waiting to be written; more are dropped and counted.")

    @model_validator(mode="after")
    def _an_audit_keeps_everything(self) -> Self:
        if self.mode == "audit" and self.sample < 1:
            raise misfit("sample", self.sample, "an audit log keeps every record; leave it at 1, or set mode to async")
        return self


class BatchingSection(Section):
    """How requests that are there at the same time share one run of the graph. Each worker batches for itself."""

    rows: int = Field(default=256, ge=1, le=65_536, description="Most rows that requests are joined to; 1 turns it off.")
    delay_ms: float = Field(
        default=0, ge=0, le=1000, description="Longest wait for more rows under concurrent traffic; a lone request never waits."
    )
    queue_rows: Count = Field(
        default=16_384, description="Rows that may wait for the graph; a request beyond is refused with 429."
    )


class InputRules(Section):
    """What becomes of one input's values that training did not hold; null is as for all inputs."""

    out_of_range: OutOfRange | None = None
    unknown_category: UnknownCategory | None = None
    missing: Missing | None = None
    value: bool | int | float | str | None = Field(
        default=None, description="What is imputed; by default the median, or the most frequent category, of training."
    )


class ValidationSection(Section):
    """What becomes of values that training did not hold. It is recorded in the model package, and holds wherever it serves."""

    out_of_range: OutOfRange = Field(
        default="count",
        description="Numbers outside training's range: answered and counted, refused, or taken as the nearer end.",
    )
    unknown_category: UnknownCategory = Field(
        default="count", description="Texts that training did not hold: answered and counted, refused, or replaced."
    )
    missing: Missing = Field(
        default="as-trained", description="as-trained: the model's business where training held missing ones, else refused."
    )
    inputs: dict[Text, InputRules] = Field(default_factory=dict, description="Request input to what differs for it.")

    @model_validator(mode="after")
    def _values_are_used(self) -> Self:
        for name, rules in self.inputs.items():
            effective = (rules.missing or self.missing, rules.unknown_category or self.unknown_category)
            if rules.value is not None and "impute" not in effective:
                raise misfit(f"inputs.{name}.value", rules.value, "is never used; set missing or unknown_category to impute")
        return self


class ServingSection(Section):
    """The model server."""

    workers: int = Field(default=1, ge=1, le=64, description="Processes that answer; on an accelerator it is always one.")
    max_rows: int = Field(default=1024, ge=1, description="Rows in one request.")
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, description="Bytes in one request's body.")
    gpu_memory_bytes: int = Field(default=0, ge=0, description="Most memory of a GPU for the graph's tensors; 0 is no limit.")
    max_connections: int = Field(default=1024, ge=1, le=1_000_000, description="Open connections of one worker and port.")
    request_seconds: float = Field(
        default=30.0, ge=0.001, le=86_400, description="A request that has waited longer is refused, not computed."
    )
    read_seconds: float = Field(default=10.0, ge=0.1, le=3600, description="Time a caller has to send one whole request.")
    idle_seconds: float | None = Field(
        default=None, ge=1, le=86_400, description="An idle connection is closed after this; null is the server's own choice."
    )
    drain_seconds: float = Field(default=10.0, ge=0, le=3600, description="How long requests in flight may take at the end.")
    threshold: Share = Field(default=0.5, description="Probability from which class 1 is answered.")
    batching: BatchingSection = BatchingSection()
    validation: ValidationSection = ValidationSection()
    log: InferenceLogSection = InferenceLogSection()
    access_log: Literal["off", "errors", "all"] = Field(default="off", description="Which requests are written to stderr.")
    traces: Literal["off", "parent"] | Annotated[float, Field(gt=0, le=1)] = Field(
        default="off", description="OpenTelemetry spans: off, parent (as the caller decided), or a share of requests."
    )
    traces_to: HttpAddress | None = Field(default=None, description="OTLP/HTTP collector; null means localhost:4318.")
    allow_cpu_fallback: bool = Field(
        default=False, description="Serve on the CPU when the package's accelerator is not there, instead of not at all."
    )

    @model_validator(mode="after")
    def _what_goes_somewhere_is_made(self) -> Self:
        if self.traces_to is not None and self.traces == "off":
            raise misfit("traces_to", self.traces_to, "nothing is sent there; set traces to parent or a share")
        return self
