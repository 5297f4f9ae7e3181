"""Trains the digits' network and writes what `tidegate package` and `tidegate optimize` read.

    python -m examples.digits.train [--out .tidegate/digits]

Writes `digits.pt2` (the network as a torch.export program), `sample.npz` (the images it was trained on, half of all),
`holdout.parquet` (the other half: columns `image` and `label`) and `request.json` (the holdout's first image, to ask about).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from examples.digits.network import exported, fit
from tidegate.packaging.inputs import tensor_column

Arrays = tuple[np.ndarray, np.ndarray]


def read_digits() -> tuple[Arrays, Arrays]:
    """Return images [n, 1, 8, 8] (float32, 0 to 16) and digits (int64) of the training rows and the holdout."""
    digits = load_digits()
    images, labels = digits.images.astype(np.float32)[:, None], digits.target.astype(np.int64)
    training, holdout = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=0)
    return (images[training], labels[training]), (images[holdout], labels[holdout])


def write_digits(out: Path) -> float:
    """Train, and write the four files to `out`; return the network's accuracy on the holdout."""
    out.mkdir(parents=True, exist_ok=True)
    (images, labels), (unseen, answers) = read_digits()
    network = fit(images, labels)
    torch.export.save(exported(network, images), out / "digits.pt2")
    np.savez_compressed(out / "sample.npz", image=images)
    pq.write_table(pa.table({"image": tensor_column(unseen), "label": answers}), out / "holdout.parquet")
    (out / "request.json").write_text(json.dumps(_request(unseen[:1])))
    with torch.no_grad():
        found = network(torch.from_numpy(unseen)).argmax(dim=1).numpy()
    return float(np.mean(found == answers))


def _request(images: np.ndarray) -> dict[str, object]:
    """Return the body of an inference request of the Open Inference Protocol."""
    pixels = images.reshape(-1).astype(int).tolist()
    return {"inputs": [{"name": "image", "datatype": "FP32", "shape": list(images.shape), "data": pixels}]}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".tidegate/digits"), help="directory for the files")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the network is too small for more
    accuracy = write_digits(options.out)
    Console().print(f"{accuracy:.1%} of the holdout's digits are recognized; the files are in {options.out}")


if __name__ == "__main__":
    _main()
