"""Fixtures: baseline packages of the graphs in `models`, and of the source models with text, one for each kind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.optimization.variants import models

SHAPES = {"convolutions": (1, 8, 8), "recurrent": (5, 3), "attention": (5, 12)}  # of a row; of all others six numbers
ROWS = {"transformer": models.token_rows, "columns": models.column_rows}


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Return the package of the model called …; treat it as read-only."""
    folder, written = tmp_path_factory.mktemp("graphs"), {}

    def of(kind: str) -> Path:
        if kind in ("mlp", "trees"):
            return request.getfixturevalue("candidates").packages / kind
        if kind not in written:
            graph, rng = getattr(models, kind)(np.random.default_rng(5)), np.random.default_rng(5)
            rows = ROWS[kind](rng) if kind in ROWS else models.rows_of(rng, *SHAPES.get(kind, (6,)))
            written[kind] = models.write_model(graph, rows, folder / kind)
        return written[kind]

    return of
