"""The types of `package.json`, the manifest of a model package.

A model package is a directory:

    package.json        this manifest
    model.onnx          the graph that is served
    golden.npz          golden sample: arrays `input:<name>` and `output:<name>`, replayed before a server reports ready
    reference.parquet   the data the model was accepted on: model inputs, outputs, `label`; the monitoring reference
    model-card.md       the manifest's facts, for people
    bom.cdx.json        bill of materials, CycloneDX: what the model was made with
    engine.onnx         only with `runtime.engine`: the graph with a TensorRT engine for one kind of GPU inside
    package.sig         only if signed: beside the manifest, whose digests it covers, and therefore not among `files`

`files` holds the size and sha256 of every file but the manifest and its signature. Serving reads this module and no pickle.
The whole format, and what a reader must refuse, is in docs/model-packages.md.

Outputs have standard names where the task is known, and so have the columns of the reference:

    binary-classification       probability     FP32 [-1]           of class 1
    multiclass-classification   probabilities   FP32 [-1, classes]
    regression                  prediction      FP32 [-1] or [-1, targets]
    tensors                     whatever the source model calls them; nothing is judged but parity and speed
"""

from typing import Annotated, Literal

import msgspec

from tidegate.digests import bytes_digest

SCHEMA_VERSION = 3
MANIFEST_NAME = "package.json"
MODEL_NAME = "model.onnx"
GOLDEN_NAME = "golden.npz"
REFERENCE_NAME = "reference.parquet"
CARD_NAME = "model-card.md"
BILL_NAME = "bom.cdx.json"
ENGINE_NAME = "engine.onnx"
SIGNATURE_NAME = "package.sig"
PROBABILITY = "probability"
PROBABILITIES = "probabilities"
PREDICTION = "prediction"
BASELINE = "baseline"  # name of the variant that is the source model, converted and otherwise unchanged
LABEL = "label"  # column of the reference: a class's number or the target's value, null where unknown

# NumPy has no bfloat16: a BF16 tensor is of 32 bits in memory, in the graph and in every file, and of 16 only on the wire.
Datatype = Literal[
    "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP16", "BF16", "FP32", "FP64", "BYTES"
]
Scalar = bool | int | float | str
Task = Literal["binary-classification", "multiclass-classification", "regression", "tensors"]

# What a variant gave up of the model's exactness; each has tolerances of its own. Half precision and 8-bit integers round its
# arithmetic; a pruned model computes exactly, but with fewer weights than were trained.
Precision = Literal["full", "half", "int8", "pruned"]

OutOfRange = Literal["count", "reject", "clamp"]
UnknownCategory = Literal["count", "reject", "impute"]
Missing = Literal["as-trained", "impute"]

# The output that a task's metric judges; a model of the task "tensors" has none.
SCORE_OUTPUTS: dict[Task, str] = {
    "binary-classification": PROBABILITY,
    "multiclass-classification": PROBABILITIES,
    "regression": PREDICTION,
}


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    pass


class InputPolicy(_Record, frozen=True, kw_only=True):
    """What a server does with a value of a request input that training did not hold.

    A number outside `minimum` to `maximum`, or a text outside `categories`, is answered and counted, or refused, or replaced: a
    number by the nearer bound, a text by `imputed`. A missing value (null, and of floats NaN) is the model's own business where
    training held missing ones (`nullable`), and else refused; or it is replaced by `imputed`. `imputed` is given exactly where
    something is replaced by it.
    """

    out_of_range: OutOfRange = "count"
    unknown_category: UnknownCategory = "count"
    missing: Missing = "as-trained"
    imputed: Scalar | None = None


class TensorSpec(_Record, frozen=True, kw_only=True):
    """One input or output of the model, in the Open Inference Protocol's words.

    `shape` uses -1 for the batch axis, which is the first, and for every other axis of varying length; `sizes` then holds the
    least and greatest length of each axis after the first: the least that the model takes, and that of the sample. `minimum`,
    `maximum` and `categories` are what the training data held: what becomes of others `policy` says. `source` says who provides
    an input: the `request`, or a looked-up `feature`, which has no policy but a default in its contract.
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    source: Literal["request", "feature"] = "request"
    feature: str | None = None  # `view:feature` when source is "feature"
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    policy: InputPolicy = InputPolicy()


class Signature(_Record, frozen=True, kw_only=True):
    """Names, datatypes, shapes, value ranges and categories of a model's inputs and outputs."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class FeatureField(_Record, frozen=True, kw_only=True):
    """One looked-up feature. A missing value becomes `default`; if `required`, the row cannot be answered without it."""

    name: str
    datatype: Datatype
    default: float | int | str | None = None  # null means NaN (or "" for BYTES)
    required: bool = False


class FeatureView(_Record, frozen=True, kw_only=True):
    """The features read from one feature view by its join keys. Rows older than the TTL (seconds, 0 = none) are missing."""

    name: str
    join_keys: tuple[str, ...]
    ttl_seconds: int
    features: tuple[FeatureField, ...]


class FeatureContract(_Record, frozen=True, kw_only=True):
    """What a model was trained on, frozen: the feature store may change later, this does not."""

    service: str
    project: str
    views: tuple[FeatureView, ...]

    @property
    def join_keys(self) -> tuple[str, ...]:
        """Every entity key a request must carry, each once, in order of first use."""
        return tuple(dict.fromkeys(key for view in self.views for key in view.join_keys))

    @property
    def digest(self) -> str:
        """`sha256:…` of the contract's canonical JSON."""
        return digest_of(self)


class SourceFacts(_Record, frozen=True, kw_only=True):
    """What the source model was."""

    framework: str  # such as "scikit-learn" or "PyTorch"
    version: str  # the framework's, as installed where the model was packaged
    kind: str  # such as "Pipeline(HistGradientBoostingClassifier)"
    digest: str = ""  # `sha256:…` of the source model's file or files; empty if it was packaged from memory


class PackedInput(_Record, frozen=True, kw_only=True):
    """An input of the graph, [-1, columns], that holds several inputs of the signature side by side, each [-1, 1]."""

    name: str
    datatype: Datatype
    columns: tuple[str, ...]


class Variant(_Record, frozen=True, kw_only=True):
    """Which optimized form of the source model `model.onnx` is."""

    name: str  # such as "graph-optimized" or "int8-dynamic"
    candidate: str  # which source model, such as "trees" or "mlp"
    precision: Precision = "full"
    parameters: dict[str, Scalar] = {}


class Engine(_Record, frozen=True, kw_only=True):
    """A TensorRT engine, in `engine.onnx`: good for exactly this kind of GPU and this version of TensorRT."""

    compute_capability: str  # such as "9.0"
    tensorrt: str  # such as "10.13"


class Runtime(_Record, frozen=True, kw_only=True):
    """How ONNX Runtime is to load the graph."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    provider_options: dict[str, dict[str, str]] = {}  # by provider
    intra_op_threads: int = 1
    inter_op_threads: int = 1
    execution: Literal["sequential", "parallel"] = "sequential"
    graph_optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    engine: Engine | None = None


class Verdict(_Record, frozen=True, kw_only=True):
    """What one gate found: the number, the bound it was held to, and the outcome."""

    gate: Literal["data", "parity", "accuracy", "benchmark", "champion"]
    subject: str  # what was judged, such as "mlp/int8-dynamic" or "max_null_share of temp"
    measure: str  # such as "roc_auc loss, upper 95 % bound"
    value: float | None
    bound: float | None
    passed: bool
    note: str = ""


class BenchmarkRow(_Record, frozen=True, kw_only=True):
    """One variant's speed at one batch size with so many callers at once; times in microseconds."""

    variant: str
    batch: int
    concurrency: int = 1
    p50_us: float
    p95_us: float
    p99_us: float
    rows_per_second: float
    ratio: float  # of this variant's p50 to the baseline's, paired by round
    ratio_low: float
    ratio_high: float


class SearchRow(_Record, frozen=True, kw_only=True):
    """How one variant fared in the search that this package won: whether it passed, why it won or lost, and its numbers."""

    variant: str  # "candidate/variant"
    status: Literal["passed", "failed", "not-applicable"]
    reason: str
    numbers: dict[str, float] = {}


class Lineage(_Record, frozen=True, kw_only=True):
    """Where a package came from."""

    run_id: str
    created_at: str  # ISO 8601, wall clock
    event_time: str  # ISO 8601, event time of the training
    window_start: str
    window_end: str
    holdout_start: str
    data_digest: str
    code_digest: str
    project_digest: str
    reason: str = ""  # why this release was made, such as "initial" or a drift decision
    tidegate_version: str = ""


class FileEntry(_Record, frozen=True, kw_only=True):
    """A file's size in bytes and sha256, in hex."""

    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Manifest(_Record, frozen=True, kw_only=True):
    """The whole of `package.json`."""

    schema_version: int
    name: str
    task: Task
    signature: Signature
    classes: tuple[str, ...] = ()  # of a classification, in the order of their numbers
    threshold: float | None = None  # of a binary classification: the probability from which class 1 is answered
    variant: Variant
    runtime: Runtime
    metrics: dict[str, float]
    files: dict[str, FileEntry]
    source: SourceFacts | None = None
    tools: dict[str, str] = {}  # the distributions that made the package, and their versions
    packing: tuple[PackedInput, ...] = ()
    features: FeatureContract | None = None
    verdicts: tuple[Verdict, ...] = ()
    benchmark: tuple[BenchmarkRow, ...] = ()
    search: tuple[SearchRow, ...] = ()
    lineage: Lineage | None = None


def digest_of(record: msgspec.Struct) -> str:
    """Return `sha256:…` of a record's canonical JSON (sorted keys, no spaces)."""
    canonical = msgspec.json.encode(record, order="sorted")
    return bytes_digest(canonical)
