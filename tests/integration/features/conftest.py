"""The flights example's real data and feature repository, collected once."""

from pathlib import Path

import pytest

from examples.flights.collect import collect
from tidegate.features.repository import FeatureRepository

FEATURE_REPO = Path(__file__).parents[3] / "feature_repo"


@pytest.fixture(scope="session")
def flights_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("flights")
    collect(workspace / "data")
    return workspace


@pytest.fixture(scope="session")
def flights_repository(flights_workspace: Path) -> FeatureRepository:
    repository = FeatureRepository(FEATURE_REPO, flights_workspace)
    repository.apply()
    return repository
