"""The digits example's network on scikit-learn's digits, wider: as it stands there is little in it to reduce."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.optimization.cases.case import Feeds, Own, write_case
from tidegate.packaging.inputs import tensor_column
from tidegate.packaging.sources.head import with_head
from tidegate.packaging.sources.opening import open_source

_PROGRAM, _WEIGHTS = "digits.pt2", "digits.pt"
_WIDTH = 64


class Digits:
    """A convolutional network for images of 8 by 8 pixels."""

    name = "digits-cnn"
    framework = "PyTorch"
    label_column = "label"
    bert = None

    def prepare(self, folder: Path) -> None:
        """Train as the example does."""
        import torch

        from examples.digits.network import exported, fit
        from examples.digits.train import read_digits

        torch.set_num_threads(1)  # the network is too small for more
        (images, labels), (unseen, answers) = read_digits()
        network = fit(images, labels, width=_WIDTH)
        torch.save(network.state_dict(), folder / _WEIGHTS)
        torch.export.save(exported(network, images), folder / _PROGRAM)
        source = with_head(open_source(folder / _PROGRAM), "multiclass-classification", activation="softmax")
        training = pa.table({"image": tensor_column(images)})
        holdout = pa.table({"image": tensor_column(unseen), "label": answers})
        write_case(folder, source, training, holdout, "label")

    def own(self, folder: Path) -> Own:
        """Call the module in inference mode, with its softmax."""
        import torch

        from examples.digits.network import DigitsNet

        network = DigitsNet(_WIDTH).eval()
        network.load_state_dict(torch.load(folder / _WEIGHTS, weights_only=True))

        def ready(feeds: Feeds) -> Any:
            image = torch.from_numpy(feeds["image"])

            def call() -> object:
                with torch.inference_mode():
                    return network(image).softmax(dim=1).numpy()

            return call

        return ready
