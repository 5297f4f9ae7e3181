"""Writes the model card: a package's facts in Markdown, for people. It is made from the manifest and from nothing else.

Names, reasons and notes are other people's text: they are escaped, so that none of them becomes markup, a link or a table.
"""

import re
from collections.abc import Iterable, Sequence

from tidegate.packaging.format.manifest import BenchmarkRow, FeatureView, Lineage, Manifest, SearchRow, TensorSpec, Verdict

_MARKUP = re.compile(r"[\\`*_\[\]<>|~&$!#@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_MOST_CATEGORIES = 12
_TOLD = {"count": "answered", "reject": "refused", "clamp": "taken as the nearer end"}
_OUTCOMES = {"passed": "passed", "failed": "failed", "not-applicable": "not applicable"}

_Lines = Iterable[str]


def model_card(manifest: Manifest) -> str:
    """Return the Markdown of `model-card.md` for a package whose manifest lists every other file already."""
    sections = (
        ("Inputs and outputs", _signature(manifest)),
        ("How it was made", _making(manifest)),
        ("Metrics", _metrics(manifest)),
        ("Gates", _gates(manifest.verdicts)),
        ("Why this variant", _search(manifest)),
        ("Speed", _speed(manifest.benchmark)),
        ("Limits", _limits(manifest)),
        ("How to use it", _use(manifest)),
        ("Files", _files(manifest)),
    )
    lines = [f"# {_text(manifest.name)}", "", *_summary(manifest)]
    for title, content in sections:
        if body := list(content):
            lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


def _summary(manifest: Manifest) -> _Lines:
    variant, runtime = manifest.variant, manifest.runtime
    yield f"A model for {manifest.task}, as an ONNX graph with everything that serving it needs."
    yield ""
    if source := manifest.source:
        yield f"- source model: {_text(source.framework)} {_text(source.version)}, {_text(source.kind)}"
    parameters = ", ".join(f"{_text(name)} {_text(value)}" for name, value in sorted(variant.parameters.items()))
    with_parameters = f" ({parameters})" if parameters else ""
    yield f"- variant: {_text(variant.name)} of {_text(variant.candidate)}{with_parameters}, {variant.precision} precision"
    yield (
        f"- runs on: {_text(', '.join(runtime.providers))}; threads: {runtime.intra_op_threads} within an operator, "
        f"{runtime.inter_op_threads} across; {runtime.execution}; graph optimizations: {runtime.graph_optimization}"
    )
    if engine := runtime.engine:
        yield f"- TensorRT {_text(engine.tensorrt)} engine for GPUs of compute capability {_text(engine.compute_capability)}"


def _signature(manifest: Manifest) -> _Lines:
    yield from _table(
        ("input", "datatype", "shape", "from", "may be missing", "held in training", "outside it"),
        [
            (spec.name, spec.datatype, _shape(spec), spec.feature or spec.source, _missing(spec), _held(spec), _outside(spec))
            for spec in manifest.signature.inputs
        ],
    )
    yield ""
    outputs = [(spec.name, spec.datatype, _shape(spec)) for spec in manifest.signature.outputs]
    yield from _table(("output", "datatype", "shape"), outputs)
    if manifest.classes:
        named = ", ".join(f"{number} is {_text(name)}" for number, name in enumerate(manifest.classes))
        yield from ("", f"Classes: {named}.")
    if manifest.threshold is not None:
        yield f"Class 1 is answered from a probability of {manifest.threshold:g}."
    for packed in manifest.packing:
        yield from ("", f"The graph takes {len(packed.columns)} of the inputs side by side, as {_text(packed.name)}.")


def _making(manifest: Manifest) -> _Lines:
    if manifest.lineage:
        yield from _lineage(manifest.lineage)
    if manifest.source and manifest.source.digest:
        yield f"- source model: {_text(manifest.source.digest)}"
    if manifest.tools:
        yield "- made with: " + ", ".join(f"{_text(name)} {_text(version)}" for name, version in sorted(manifest.tools.items()))


def _lineage(lineage: Lineage) -> _Lines:
    facts = {
        "made": lineage.created_at,
        "by run": lineage.run_id,
        "because": lineage.reason,
        "event time of the training": lineage.event_time,
        "trained on events": f"{lineage.window_start} to {lineage.window_end}, holdout from {lineage.holdout_start}",
        "data": lineage.data_digest,
        "code": lineage.code_digest,
        "project file": lineage.project_digest,
        "Tidegate": lineage.tidegate_version,
    }
    return [f"- {name}: {_text(value)}" for name, value in facts.items() if value]


def _metrics(manifest: Manifest) -> _Lines:
    return _table(("metric", "value"), [(name, _number(value)) for name, value in sorted(manifest.metrics.items())])


def _gates(verdicts: Sequence[Verdict]) -> _Lines:
    return _table(
        ("gate", "subject", "measure", "value", "bound", "verdict", "note"),
        [
            (
                verdict.gate,
                verdict.subject,
                verdict.measure,
                _number(verdict.value),
                _number(verdict.bound),
                "passed" if verdict.passed else "FAILED",
                verdict.note,
            )
            for verdict in verdicts
        ],
    )


def _search(manifest: Manifest) -> _Lines:
    own = f"{manifest.variant.candidate}/{manifest.variant.name}"
    numbers = list(dict.fromkeys(name for row in manifest.search for name in row.numbers))

    def cells(row: SearchRow) -> tuple[str, ...]:
        outcome = "selected" if row.variant == own and row.status == "passed" else _OUTCOMES[row.status]
        return (row.variant, outcome, row.reason, *(_number(row.numbers.get(name)) for name in numbers))

    return _table(("variant", "outcome", "why", *numbers), [cells(row) for row in manifest.search])


def _speed(benchmark: Sequence[BenchmarkRow]) -> _Lines:
    return _table(
        ("variant", "rows a call", "callers", "p50 µs", "p95 µs", "p99 µs", "rows/s", "p50 to the baseline's"),
        [
            (
                row.variant,
                str(row.batch),
                str(row.concurrency),
                f"{row.p50_us:.1f}",
                f"{row.p95_us:.1f}",
                f"{row.p99_us:.1f}",
                f"{row.rows_per_second:,.0f}",
                f"{row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f})",
            )
            for row in benchmark
        ],
    )


def _limits(manifest: Manifest) -> _Lines:
    inputs = manifest.signature.inputs
    if any(_outside(spec) == "answered" for spec in inputs):
        yield "- Values outside what training held are new to the model. They are counted, and answered where it says so."
    required = [_text(spec.name) for spec in inputs if not spec.nullable and spec.policy.missing != "impute"]
    if required:
        yield f"- Never missing in training, so that a missing value is new to the model: {', '.join(required)}."
    if any(spec.sizes for spec in inputs):
        yield "- Axes longer or shorter than the sample's were not tried."
    if manifest.features:
        yield f"- Looked-up features come from {_text(manifest.features.service)} of {_text(manifest.features.project)}:"
        yield from (f"    - {_view(view)}" for view in manifest.features.views)
    if manifest.variant.precision == "pruned":
        yield "- Weights that training found were taken away: answers differ from the source model's."
    elif manifest.variant.precision != "full":
        yield f"- The arithmetic is of {manifest.variant.precision} precision: answers differ from the source model's."
    if manifest.runtime.engine:
        yield "- On another kind of GPU or another TensorRT, the graph is served without its engine, slower."
    if not manifest.verdicts:
        yield "- No gate has judged this package."


def _view(view: FeatureView) -> str:
    names = ", ".join(_text(feature.name) for feature in view.features)
    ttl = f"older than {view.ttl_seconds} s counts as missing" if view.ttl_seconds else "of any age"
    return f"{_text(view.name)} by {_text(', '.join(view.join_keys))}: {names}; {ttl}"


def _use(manifest: Manifest) -> _Lines:
    yield "```sh"
    yield "tidegate models verify ./package --public-key key.pub   # every file, every digest, and who signed them"
    yield "tidegate serve ./package                                # Open Inference Protocol, REST and gRPC"
    yield "```"


def _files(manifest: Manifest) -> _Lines:
    rows = [(name, f"{entry.size:,}", entry.sha256) for name, entry in sorted(manifest.files.items())]
    yield from _table(("file", "bytes", "sha256"), rows)
    yield from ("", "The manifest, `package.json`, holds these digests and that of every file made from it.")


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> _Lines:
    if not rows:
        return []
    return [_row(titles), "| " + " | ".join("---" for _ in titles) + " |", *(_row(row) for row in rows)]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def _shape(spec: TensorSpec) -> str:
    axes = ["rows" if axis == 0 and size == -1 else "any" if size == -1 else str(size) for axis, size in enumerate(spec.shape)]
    for axis, (least, most) in enumerate(spec.sizes, start=1):
        if spec.shape[axis : axis + 1] == (-1,):
            axes[axis] = f"{least} to {most}" if least != most else f"any, sample {least}"
    return ", ".join(axes)


def _held(spec: TensorSpec) -> str:
    if spec.categories is not None:
        more = len(spec.categories) - _MOST_CATEGORIES
        return ", ".join(spec.categories[:_MOST_CATEGORIES]) + (f" and {more} more" if more > 0 else "")
    if spec.minimum is not None and spec.maximum is not None:
        return f"{spec.minimum:g} to {spec.maximum:g}"
    return ""


def _outside(spec: TensorSpec) -> str:
    """Say what a server does with a value outside what training held; nothing where training held no range."""
    policy = spec.policy
    if spec.categories is not None:
        return f"is taken as {policy.imputed}" if policy.unknown_category == "impute" else _TOLD[policy.unknown_category]
    return _TOLD[policy.out_of_range] if spec.minimum is not None and spec.maximum is not None else ""


def _missing(spec: TensorSpec) -> str:
    if spec.policy.missing == "impute":
        return f"yes, as {spec.policy.imputed}"
    return "yes" if spec.nullable else "no"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(value: object) -> str:
    """Escape a text for Markdown: on one line, without control characters, and nothing in it is markup."""
    line = " ".join("".join(character if character.isprintable() else " " for character in str(value)).split())
    return _MARKUP.sub(lambda found: "\\" + found[0], line)
