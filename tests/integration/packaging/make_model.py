"""Makes a tiny model of one framework, a sample of its inputs, and its own answers to them.

python make_model.py FRAMEWORK FOLDER          # writes model…, sample.npz or sample.parquet, answers.npz
"""

import os
import sys
from pathlib import Path

import numpy as np

ROWS = 24
RANDOM = np.random.default_rng(0)


def pytorch(folder: Path) -> None:
    """A convolutional network of ten classes, exported for batches of any size."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = RANDOM.random((ROWS, 1, 8, 8), dtype=np.float32)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 36, 10)).eval()
    batch = torch.export.Dim("batch", min=1, max=256)
    program = torch.export.export(network, (torch.zeros(3, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    with torch.no_grad():
        probabilities = network(torch.from_numpy(images)).softmax(1).numpy()
    np.savez(folder / "sample.npz", image=images)
    np.savez(folder / "answers.npz", probabilities=probabilities)


def transformers(folder: Path) -> None:
    """A BERT of random weights that tells two classes apart."""
    os.environ["USE_TF"] = "0"
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, id2label={0: "calm", 1: "angry"}, label2id={"calm": 0, "angry": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder / "model")
    sample = {"input_ids": RANDOM.integers(2, 50, (ROWS, 6)), "attention_mask": np.ones((ROWS, 6), dtype=np.int64)}
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(array) for name, array in sample.items()}).logits
    np.savez(folder / "sample.npz", **sample)
    np.savez(folder / "answers.npz", probability=logits.softmax(1)[:, 1].numpy())


def keras(folder: Path) -> None:
    """A network of two inputs that predicts one number."""
    import keras

    keras.utils.set_random_seed(0)
    image, extra = keras.Input((6, 6, 1), name="image"), keras.Input((3,), name="extra")
    seen = keras.layers.Flatten()(keras.layers.Conv2D(2, 3, activation="relu")(image))
    model = keras.Model([image, extra], keras.layers.Dense(1, name="price")(keras.layers.Concatenate()([seen, extra])))
    model.save(folder / "model.keras")
    sample = {"image": RANDOM.random((ROWS, 6, 6, 1)), "extra": RANDOM.random((ROWS, 3))}
    np.savez(folder / "sample.npz", **sample)
    np.savez(folder / "answers.npz", prediction=np.asarray(model(list(sample.values()), training=False)).reshape(-1))


def xgboost(folder: Path) -> None:
    """Boosted trees of three classes, in XGBoost's own file, with columns as the sample."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from xgboost import XGBClassifier

    values = RANDOM.normal(size=(200, 3)).astype(np.float32)
    kinds = (values[:, 0] > 0).astype(int) + (values[:, 1] > 0)
    model = XGBClassifier(n_estimators=4, max_depth=3, n_jobs=1).fit(values, kinds)
    model.save_model(folder / "model.ubj")
    columns = {f"f{place}": values[:ROWS, place] for place in range(3)}
    pq.write_table(pa.table({**columns, "kind": kinds[:ROWS]}), folder / "sample.parquet")
    np.savez(folder / "answers.npz", probabilities=model.predict_proba(values[:ROWS]))


if __name__ == "__main__":
    {"pytorch": pytorch, "transformers": transformers, "keras": keras, "xgboost": xgboost}[sys.argv[1]](Path(sys.argv[2]))
