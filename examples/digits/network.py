"""The digits' network, and how it is trained and exported."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

_EPOCHS = 20
_BATCH = 64


class DigitsNet(nn.Module):
    """Two convolutions and two dense layers: an image [n, 1, 8, 8] of values 0 to 16 becomes ten logits."""

    def __init__(self, width: int = 32) -> None:
        """Make the layers; the second convolution has `width` channels, twice as many as the first."""
        super().__init__()
        self.first = nn.Conv2d(1, width // 2, kernel_size=3, padding=1)
        self.second = nn.Conv2d(width // 2, width, kernel_size=3, padding=1)
        self.hidden = nn.Linear(width * 4 * 4, 2 * width)
        self.last = nn.Linear(2 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits, [n, 10]; scaling is part of the model, so that callers send the pixels as they are."""
        seen = functional.relu(self.first(image / 16.0))
        seen = functional.max_pool2d(functional.relu(self.second(seen)), 2)
        return self.last(functional.relu(self.hidden(seen.flatten(1))))


def fit(images: NDArray[np.float32], labels: NDArray[np.int64], *, width: int = 32, seed: int = 0) -> DigitsNet:
    """Train a network on images [n, 1, 8, 8] and their digits, on the CPU; the same seed gives the same network."""
    torch.manual_seed(seed)
    network = DigitsNet(width)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(_EPOCHS):
        for part in torch.randperm(len(inputs)).split(_BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(network(inputs[part]), targets[part]).backward()
            optimizer.step()
    return network.eval()


def exported(network: DigitsNet, images: NDArray[np.float32]) -> torch.export.ExportedProgram:
    """Return the network as a program for any number of rows."""
    rows = {0: torch.export.Dim("rows", min=1)}
    return torch.export.export(network, (torch.from_numpy(images[:2]),), dynamic_shapes={"image": rows})
