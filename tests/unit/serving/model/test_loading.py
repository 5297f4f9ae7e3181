"""A version is opened whole, beside others, or refused with what is missing."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import small_packages
from tidegate.clock import WallClock
from tidegate.errors import FeatureError, PackageError, ServingError, TidegateError
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.metrics.text import render
from tidegate.serving.model.loading import ModelLoader
from tidegate.serving.protocol.request import InferAnswer, InferRequest, Tensor
from tidegate.serving.settings import ServeSettings

Loader = Callable[..., ModelLoader]


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    def make(**settings: Any) -> ModelLoader:
        chosen = ServeSettings("unused", **settings)
        return ModelLoader(chosen, "served", clock=WallClock(), metrics=tmp_path / "metrics", worker=0)

    return make


def answer(model: Any) -> Any:
    """Ask a model for one row of 1.0."""

    async def ask() -> Any:
        answered = asyncio.get_running_loop().create_future()
        model.submit(InferRequest("id", [Tensor("x", "FP32", [1], [1.0])], deadline=2**63), answered.set_result)
        return await answered

    return asyncio.run(ask())


def test_versions_are_open_side_by_side_with_identities_of_their_own(loader: Loader, tmp_path: Path) -> None:
    found = loader()
    models = [found.open(small_packages.adder(tmp_path / version, float(version)), version) for version in ("10", "20")]
    for model, version in zip(models, ("10", "20"), strict=True):
        assert (model.identity.name, model.identity.version, model.identity.revision) == ("served", version, f"v{version}")
        answered = answer(model)
        assert isinstance(answered, InferAnswer)
        assert answered.outputs["sum"].item() == 1.0 + float(version)
        model.close()
    assert len(list((tmp_path / "metrics").glob("*.cells"))) == 2


def test_a_revision_that_is_given_is_that_of_every_version(loader: Loader, tmp_path: Path) -> None:
    model = loader(revision="canary-3").open(small_packages.adder(tmp_path / "1", 1), "1")
    assert model.identity.revision == "canary-3"
    model.close()


def test_a_closed_version_lets_go_of_its_graph_at_once(loader: Loader, tmp_path: Path) -> None:
    model = loader().open(small_packages.adder(tmp_path / "1", 1), "1")
    engine = weakref.ref(model._engine)
    gc.disable()
    try:
        model.close()
        assert engine() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        pytest.param({}, ServingError, "name the online store with --online-store", id="no online store"),
        pytest.param({"online_store": "redis:/x"}, FeatureError, "redis:/x", id="no address of an online store"),
        pytest.param(
            {"online_store": "sqlite:///nowhere/online.db", "log_store": "ftp://x"}, TidegateError, "ftp://x", id="no log store"
        ),
    ],
)
def test_what_a_version_needs_and_does_not_find_is_named(
    loader: Loader, tiny_package: Path, settings: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        loader(**settings).open(tiny_package, "1")


def test_a_package_that_is_none_is_refused(loader: Loader, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"package\.json"):
        loader().open(tmp_path, "1")


def test_what_a_version_counts_is_labelled_with_it(loader: Loader, tmp_path: Path) -> None:
    model = loader().open(small_packages.adder(tmp_path / "1", 1), "7")
    model.metrics.count_request(400, 1)
    (file,) = (tmp_path / "metrics").glob("*.cells")
    assert b'{model="served",version="7",revision="v7",status="400"} 1' in render(MetricsMemory.load(file))
    model.close()
