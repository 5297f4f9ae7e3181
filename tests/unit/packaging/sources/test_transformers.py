"""Directories of Hugging Face transformers, tiny ones with random weights: what they answer, and what is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from tests.unit.packaging.sources.round_trip import round_trip
from tidegate.errors import PackageError
from tidegate.optimization.graphs.attention import with_fused_attention
from tidegate.optimization.graphs.fused import optimized
from tidegate.packaging.format.manifest import Runtime
from tidegate.packaging.sources.opening import open_source, wrap_model
from tidegate.packaging.sources.transformers_model import read_transformers

os.environ["USE_TF"] = "0"  # transformers would import it, if it is there
torch.set_num_threads(1)

import transformers  # noqa: E402

ROWS = 5
RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(2, 50, (ROWS, 7))
MASK = (np.arange(7) < RANDOM.integers(1, 8, (ROWS, 1))).astype(np.int64)
TEXT = {"attention_mask": MASK, "input_ids": IDS.astype(np.int32)}
SMALL = {"vocab_size": 50, "max_position_embeddings": 40}
BERT = {**SMALL, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def _bert(**options: Any) -> Any:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**BERT, **options))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    _bert(id2label={0: "calm", 1: "angry", 2: "glad"}, label2id={"calm": 0, "angry": 1, "glad": 2}).save_pretrained(folder)
    return folder


def test_a_classifier_answers_with_the_probabilities_of_its_classes(classifier: Path) -> None:
    source = open_source(classifier)

    trip = round_trip(source, TEXT)

    assert (source.facts.framework, source.facts.kind) == ("transformers", "BertForSequenceClassification")
    assert (source.task, source.classes) == ("multiclass-classification", ("calm", "angry", "glad"))
    assert {name: (spec.datatype, spec.shape, spec.sizes) for name, spec in trip.by_name.items()} == {
        "input_ids": ("INT32", (-1, -1), ((1, 7),)),
        "attention_mask": ("INT64", (-1, -1), ((1, 7),)),
    }
    assert trip.outputs == {"probabilities": ("FP32", (-1, 3))}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(IDS), attention_mask=torch.tensor(MASK)).logits
    np.testing.assert_allclose(source.predict(trip.arrays)["probabilities"], logits.softmax(1).numpy(), atol=1e-6)
    trip.assert_agrees()
    for length in (1, 2, 5):
        trip.assert_agrees(arrays={name: array[:, :length] for name, array in trip.arrays.items()})


def test_its_attention_is_exported_as_the_optimization_knows_it(classifier: Path) -> None:
    trip = round_trip(open_source(classifier), TEXT)
    basic = onnx.load_from_string(optimized(trip.graph.SerializeToString(), Runtime(), "basic"))

    fused, blocks = with_fused_attention(basic)

    assert blocks == BERT["num_hidden_layers"]
    session = ort.InferenceSession(fused.SerializeToString(), providers=["CPUExecutionProvider"])
    for length in (1, 4, 7):
        arrays = {name: array[:, :length] for name, array in trip.arrays.items()}
        expected = trip.source.predict(arrays)["probabilities"]
        np.testing.assert_allclose(session.run(None, arrays)[0], expected, atol=1e-5, rtol=1e-4)


def test_features_come_out_as_they_are(tmp_path: Path) -> None:
    config = transformers.DistilBertConfig(**SMALL, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    transformers.DistilBertModel(config).save_pretrained(tmp_path)

    trip = round_trip(read_transformers(tmp_path), TEXT)

    assert trip.source.task == "tensors"
    assert trip.outputs == {"last_hidden_state": ("FP32", (-1, -1, 16))}
    trip.assert_agrees(arrays={name: array[:, :3] for name, array in trip.arrays.items()})


@pytest.mark.parametrize(
    ("options", "task"),
    [
        pytest.param({"num_labels": 2}, "binary-classification", id="two classes"),
        pytest.param({"num_labels": 1}, "tensors", id="one logit: only its user knows"),
        pytest.param({"num_labels": 3, "problem_type": "multi_label_classification"}, "tensors", id="several labels a row"),
    ],
)
def test_what_the_logits_mean_is_what_the_config_says(options: dict[str, Any], task: str) -> None:
    assert wrap_model(_bert(**options), "bert").task == task


def _change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickled_weights(folder: Path) -> None:
    _without_weights(folder)
    torch.save(_bert().state_dict(), folder / "pytorch_model.bin")


def _truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(_without_weights, "holds no safetensors; save it with save_pretrained", id="no weights"),
        pytest.param(_pickled_weights, "holds no safetensors", id="pickled weights"),
        pytest.param(_truncate, "transformers cannot load it", id="truncated weights"),
        pytest.param(
            lambda folder: _change_config(folder, architectures=None), "the architecture its config names is none", id="none"
        ),
        pytest.param(
            lambda folder: _change_config(folder, architectures=["MyBert"]),
            "'MyBert', which transformers does not have",
            id="own",
        ),
        pytest.param(
            lambda folder: _change_config(folder, num_hidden_layers=3), "safetensors lack weights of Bert", id="other weights"
        ),
        pytest.param(
            lambda folder: _change_config(folder, model_type="mine", auto_map={"AutoConfig": "code.Config"}),
            "transformers cannot load it",
            id="code of its own",
        ),
        pytest.param(lambda folder: (folder / "config.json").write_text("{"), "transformers cannot load it", id="no JSON"),
    ],
)
def test_a_directory_that_is_not_whole_is_refused(tmp_path: Path, damage: Callable[[Path], Any], said: str) -> None:
    _bert().save_pretrained(tmp_path)
    damage(tmp_path)

    with pytest.raises(PackageError, match=said) as refused:
        open_source(tmp_path)

    assert "\n" not in str(refused.value)
