"""Fixtures: baseline packages of the graphs in `models`, one for each kind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.optimization.variants import models

SHAPES = {"dense": (6,), "convolutions": (1, 8, 8), "overflowing": (6,), "branching": (6,)}


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the package of the graph called …; treat it as read-only."""
    folder, written = tmp_path_factory.mktemp("graphs"), {}

    def of(kind: str) -> Path:
        if kind not in written:
            graph, rng = getattr(models, kind)(np.random.default_rng(5)), np.random.default_rng(5)
            rows = models.token_rows(rng) if kind == "transformer" else models.rows_of(rng, *SHAPES[kind])
            written[kind] = models.write_model(graph, rows, folder / kind)
        return written[kind]

    return of
