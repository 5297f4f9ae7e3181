import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.packaging.format.card import model_card
from tidegate.packaging.format.manifest import (
    SCHEMA_VERSION,
    BenchmarkRow,
    Engine,
    FeatureContract,
    FileEntry,
    InputPolicy,
    Lineage,
    Manifest,
    PackedInput,
    Runtime,
    SearchRow,
    Signature,
    SourceFacts,
    TensorSpec,
    Variant,
    Verdict,
)
from tidegate.packaging.format.package import read_manifest

LINEAGE = Lineage(
    run_id="r7",
    created_at="2026-11-22T00:00:00+00:00",
    event_time="2013-04-01T00:00:00+00:00",
    window_start="2013-01-01T00:00:00+00:00",
    window_end="2013-04-01T00:00:00+00:00",
    holdout_start="2013-03-18T00:00:00+00:00",
    data_digest="sha256:00",
    code_digest="sha256:11",
    project_digest="sha256:22",
    reason="drift of temp",
)


@pytest.fixture(scope="session")
def manifest(tiny_contract: FeatureContract) -> Manifest:
    """A manifest that says everything a manifest can say."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name="flights-late",
        task="binary-classification",
        signature=Signature(
            inputs=(
                TensorSpec(name="carrier", datatype="BYTES", shape=(-1, 1), categories=tuple(f"C{n}" for n in range(20))),
                TensorSpec(name="temp", datatype="FP32", shape=(-1, 1), nullable=True, minimum=-3.5, maximum=40),
                TensorSpec(name="tokens", datatype="INT64", shape=(-1, -1), sizes=((4, 128),)),
            ),
            outputs=(TensorSpec(name="probability", datatype="FP32", shape=(-1,)),),
        ),
        classes=("on-time", "late"),
        threshold=0.4,
        variant=Variant(name="int8-dynamic", candidate="mlp", precision="int8", parameters={"per_channel": True}),
        runtime=Runtime(engine=Engine(compute_capability="9.0", tensorrt="10.13")),
        metrics={"roc_auc": 0.7123456},
        files={"model.onnx": FileEntry(size=3457, sha256="6" * 64)},
        source=SourceFacts(framework="scikit-learn", version="1.9.1", kind="Pipeline(MLPClassifier)", digest="sha256:33"),
        tools={"skl2onnx": "1.20.0", "onnx": "1.22.0"},
        packing=(PackedInput(name="numbers", datatype="FP32", columns=("temp", "hour")),),
        features=tiny_contract,
        verdicts=(
            Verdict(gate="parity", subject="mlp/int8-dynamic", measure="class flips", value=0.001, bound=0.01, passed=True),
            Verdict(gate="accuracy", subject="mlp/fp16", measure="loss", value=None, bound=0.002, passed=False, note="NaN"),
        ),
        benchmark=(
            BenchmarkRow(
                variant="mlp/int8-dynamic", batch=32, concurrency=4, p50_us=20.04, p95_us=25, p99_us=30, rows_per_second=50_000,
                ratio=0.5, ratio_low=0.4, ratio_high=0.6,
            ),
        ),
        search=(
            SearchRow(variant="mlp/int8-dynamic", status="passed", reason="fastest", numbers={"p50 µs": 20.0}),
            SearchRow(variant="mlp/fp16", status="failed", reason="loses 0.003 of roc_auc"),
            SearchRow(variant="trees/int8-dynamic", status="not-applicable", reason="no MatMul"),
        ),
        lineage=LINEAGE,
    )  # fmt: skip


def cells(card: str, first: str) -> list[str]:
    """The cells of the table row that starts with a cell."""
    (line,) = (line for line in card.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_it_says_what_the_model_is(manifest: Manifest) -> None:
    card = model_card(manifest)

    assert card.startswith("# flights-late\n\nA model for binary-classification")
    assert "- source model: scikit-learn 1.9.1, Pipeline(MLPClassifier)" in card
    assert r"- variant: int8-dynamic of mlp (per\_channel True), int8 precision" in card
    assert "- TensorRT 10.13 engine for GPUs of compute capability 9.0" in card
    assert "Classes: 0 is on-time, 1 is late.\nClass 1 is answered from a probability of 0.4." in card
    assert "The graph takes 2 of the inputs side by side, as numbers." in card


def test_it_tables_the_signature(manifest: Manifest) -> None:
    card = model_card(manifest)

    assert cells(card, "temp") == ["temp", "FP32", "rows, 1", "request", "yes", "-3.5 to 40", "answered"]
    assert cells(card, "tokens")[2] == "rows, 4 to 128"
    assert cells(card, "carrier")[5] == f"{', '.join(f'C{n}' for n in range(12))} and 8 more"
    assert cells(card, "tokens")[6] == ""
    assert cells(card, "probability") == ["probability", "FP32", "rows"]


@pytest.mark.parametrize(
    ("policy", "name", "missing", "outside"),
    [
        pytest.param(InputPolicy(), "temp", "yes", "answered", id="as it is by default"),
        pytest.param(InputPolicy(out_of_range="reject"), "temp", "yes", "refused", id="refused"),
        pytest.param(InputPolicy(out_of_range="clamp"), "temp", "yes", "taken as the nearer end", id="clamped"),
        pytest.param(InputPolicy(missing="impute", imputed=4.5), "temp", "yes, as 4.5", "answered", id="imputed if missing"),
        pytest.param(
            InputPolicy(unknown_category="impute", imputed="C1"), "carrier", "no", "is taken as C1", id="imputed if unknown"
        ),
        pytest.param(InputPolicy(unknown_category="reject"), "carrier", "no", "refused", id="unknown is refused"),
    ],
)
def test_it_says_what_becomes_of_values_that_training_did_not_hold(
    manifest: Manifest, policy: InputPolicy, name: str, missing: str, outside: str
) -> None:
    inputs = [msgspec.structs.replace(spec, policy=policy) for spec in manifest.signature.inputs if spec.name == name]
    signature = Signature(inputs=tuple(inputs), outputs=manifest.signature.outputs)

    card = model_card(msgspec.structs.replace(manifest, signature=signature))

    assert (cells(card, name)[4], cells(card, name)[6]) == (missing, outside)


def test_it_says_how_the_model_was_made(manifest: Manifest) -> None:
    card = model_card(manifest)

    for line in (
        "- by run: r7",
        "- because: drift of temp",
        "- data: sha256:00",
        "- source model: sha256:33",
        "- made with: onnx 1.22.0, skl2onnx 1.20.0",
    ):
        assert line in card.splitlines()


def test_it_tells_every_gate_and_variant(manifest: Manifest) -> None:
    card = model_card(manifest)

    assert cells(card, "parity") == ["parity", "mlp/int8-dynamic", "class flips", "0.001", "0.01", "passed", ""]
    assert cells(card, "accuracy") == ["accuracy", "mlp/fp16", "loss", "-", "0.002", "FAILED", "NaN"]
    search = card[card.index("## Why this variant") :]
    assert cells(search.split("\n## ")[0], "mlp/int8-dynamic") == ["mlp/int8-dynamic", "selected", "fastest", "20"]
    assert cells(search, "mlp/fp16") == ["mlp/fp16", "failed", r"loses 0.003 of roc\_auc", "-"]
    assert cells(search, "trees/int8-dynamic") == ["trees/int8-dynamic", "not applicable", "no MatMul", "-"]
    assert cells(search.split("## Speed")[1], "mlp/int8-dynamic")[1:7] == ["32", "4", "20.0", "25.0", "30.0", "50,000"]
    assert cells(card, r"roc\_auc") == [r"roc\_auc", "0.7123"]


def test_it_names_the_limits(manifest: Manifest) -> None:
    limits = model_card(manifest).split("## Limits")[1]

    assert "so that a missing value is new to the model: carrier, tokens." in limits
    assert "weather by origin: temp; older than 10800 s counts as missing" in limits
    assert "The arithmetic is of int8 precision" in limits
    assert "No gate has judged" not in limits
    assert "No gate has judged this package." in model_card(msgspec.structs.replace(manifest, verdicts=()))


def test_it_is_the_same_for_the_same_manifest(manifest: Manifest) -> None:
    assert model_card(manifest) == model_card(msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest))


def test_a_package_has_it(tiny_package: Path) -> None:
    card = (tiny_package / "model-card.md").read_text()

    assert card.startswith("# tiny\n")
    assert "scikit-learn" in card
    assert read_manifest(tiny_package).files["model.onnx"].sha256 in card


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a | b | c", id="a table's edge"),
        pytest.param("<script>alert(1)</script>", id="HTML"),
        pytest.param("[click](http://evil)", id="a link"),
        pytest.param("http://evil.example and www.evil.example", id="an address"),
        pytest.param("![x](http://evil)", id="a picture"),
        pytest.param("**bold** _it_ `code` ~~no~~", id="emphasis"),
        pytest.param("# heading\n\n## another\n| x |", id="lines of their own"),
        pytest.param("a\\| b", id="a backslash before an edge"),
        pytest.param("\u202eevil\u2066 \x1b[31m", id="direction and terminal controls"),
        pytest.param("&lt;&#124; <!-- ", id="entities and comments"),
        pytest.param("@someone #1 $x$", id="mentions and formulas"),
    ],
)
def test_no_name_becomes_markup(manifest: Manifest, name: str) -> None:
    plain = model_card(_named(manifest, "NAME"))

    card = model_card(_named(manifest, name))

    assert card.count("\n") == plain.count("\n")
    assert _structure(card) == _structure(plain)
    assert re.search(r"(?<!\\)[<\[`*~&$@]", _without_own_markup(card)) is None
    assert all(character.isprintable() or character == "\n" for character in card)


@given(name=st.text(max_size=40).map(lambda text: f"N{text}"))
@settings(max_examples=25, deadline=None)
def test_no_text_breaks_a_line_or_a_table(manifest: Manifest, name: str) -> None:
    assert _structure(model_card(_named(manifest, name))) == _structure(model_card(_named(manifest, "NAME")))


def _named(manifest: Manifest, name: str) -> Manifest:
    """Put a text wherever other people's text can be."""
    first, *rest = manifest.signature.inputs
    spec = msgspec.structs.replace(first, name=name, categories=(name,))
    return msgspec.structs.replace(
        manifest,
        name=name,
        signature=msgspec.structs.replace(manifest.signature, inputs=(spec, *rest)),
        classes=(name, "late"),
        metrics={name: 1.0},
        tools={name: name},
        variant=msgspec.structs.replace(manifest.variant, candidate=name, parameters={name: name}),
        verdicts=tuple(msgspec.structs.replace(verdict, subject=name, note=name) for verdict in manifest.verdicts),
        search=tuple(msgspec.structs.replace(row, variant=name, reason=name) for row in manifest.search),
        lineage=msgspec.structs.replace(LINEAGE, reason=name, run_id=name),
    )


def _structure(card: str) -> list[tuple[str, int]]:
    """Of every line, what it starts as, and how many unescaped edges of a table it has."""
    return [
        (re.match(r"[#\-|` ]*", line)[0].strip()[:2], len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)))
        for line in card.splitlines()
    ]


def _without_own_markup(card: str) -> str:
    return card.replace("```", "").replace("`package.json`", "")
