"""The digits example: what training writes can be packaged, and the network is worth it. PyTorch is really run."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest
import torch

from examples.digits import network, train
from tidegate.packaging.format.manifest import TensorSpec
from tidegate.packaging.inputs import tensor_rows
from tidegate.packaging.sources.head import with_head
from tidegate.packaging.sources.opening import open_source
from tidegate.packaging.sources.source import Source


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The example's files, after a few epochs on one thread, and the accuracy that it reports."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "_EPOCHS", 10)
        return out, train.write_digits(out)


@pytest.fixture(scope="module")
def source(written: tuple[Path, float]) -> Source:
    return with_head(open_source(written[0] / "digits.pt2"), "multiclass-classification", activation="softmax")


def test_most_digits_that_it_never_saw_are_recognized(written: tuple[Path, float]) -> None:
    assert written[1] > 0.9


def test_no_image_is_in_both_halves(written: tuple[Path, float]) -> None:
    out, _ = written
    with np.load(out / "sample.npz") as archive:
        seen = {image.tobytes() for image in archive["image"]}
    unseen = tensor_rows("image", pq.read_table(out / "holdout.parquet")["image"])
    assert len(seen) + len(unseen) <= 1_797
    assert not seen & {image.tobytes() for image in unseen}


def test_the_holdout_is_large_enough_for_the_accuracy_gate(written: tuple[Path, float]) -> None:
    # Fewer than 598 rows cannot show, with 95 % confidence, that a variant loses no more than 0.005 of accuracy.
    assert pq.read_metadata(written[0] / "holdout.parquet").num_rows >= 598


def test_the_request_asks_about_the_holdouts_first_image(written: tuple[Path, float]) -> None:
    out, _ = written
    asked = json.loads((out / "request.json").read_text())["inputs"][0]
    first = tensor_rows("image", pq.read_table(out / "holdout.parquet")["image"])[:1]
    np.testing.assert_array_equal(np.reshape(asked["data"], asked["shape"]), first)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_program_takes_any_number_of_rows_and_converts(source: Source, written: tuple[Path, float], rows: int) -> None:
    with np.load(written[0] / "sample.npz") as archive:
        images = archive["image"][:rows]
    answers = source.predict({"image": images})["probabilities"]
    assert answers.shape == (rows, 10)
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)


def test_the_graph_agrees_with_the_network(source: Source, written: tuple[Path, float]) -> None:
    with np.load(written[0] / "sample.npz") as archive:
        images = archive["image"][:33]
    inputs = source.accept([TensorSpec(name="image", datatype="FP32", shape=(-1, 1, 8, 8))])
    graph = source.to_onnx(inputs, {"image": images[:4]})
    found = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
    np.testing.assert_allclose(found, source.predict({"image": images})["probabilities"], atol=1e-5)
