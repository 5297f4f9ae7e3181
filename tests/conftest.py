"""Fixtures for every room: a tiny, real model package, and quick packages whose graphs are not real."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tidegate.packaging.format.golden import Golden
from tidegate.packaging.format.manifest import (
    SCHEMA_VERSION,
    FeatureContract,
    FeatureField,
    FeatureView,
    Manifest,
    Runtime,
    Signature,
    TensorSpec,
    Variant,
)
from tidegate.packaging.format.package import write_package

os.environ["COLUMNS"] = "200"  # a rich console measures the terminal once, when it is made

REQUEST_INPUTS = ("carrier", "origin", "distance", "hour")


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Where a program lies that the tests do not install themselves; see `.ci/programs`."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None and os.environ.get("TIDEGATE_REQUIRE_PROGRAMS"):
            pytest.fail(f"{name} is not installed, and TIDEGATE_REQUIRE_PROGRAMS is set; run .ci/programs")
        if path is None:
            pytest.skip(f"{name} is not installed; .ci/programs installs it")
        return path

    return find


@pytest.fixture(scope="session")
def tiny_contract() -> FeatureContract:
    """Two views with one feature each: weather by `origin` (optional), route by `origin` and `dest` (with a default)."""
    return FeatureContract(
        service="tiny_v1",
        project="tiny",
        views=(
            FeatureView(
                name="weather",
                join_keys=("origin",),
                ttl_seconds=3 * 3600,
                features=(FeatureField(name="temp", datatype="FP32"),),
            ),
            FeatureView(
                name="route",
                join_keys=("origin", "dest"),
                ttl_seconds=86_400,
                features=(FeatureField(name="delay", datatype="FP32", default=0.0),),
            ),
        ),
    )


@pytest.fixture(scope="session")
def tiny_examples() -> pa.Table:
    """1,200 seeded rows: entity keys, request inputs, features, `label` and `split` (the last 300 are the holdout)."""
    rng = np.random.default_rng(7)
    rows = 1_200
    hour = rng.uniform(5, 23, rows).astype(np.float32)
    temp = rng.normal(10, 9, rows).astype(np.float32)
    delay = rng.gamma(2.0, 6.0, rows).astype(np.float32)
    carrier = rng.choice(["AA", "DL", "UA"], rows)
    logit = (hour - 14) / 4 + (delay - 12) / 10 - (temp - 10) / 20 + (carrier == "UA") * 0.5
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    return pa.table(
        {
            "flight_id": [f"f{row:04d}" for row in range(rows)],
            "dest": rng.choice(["SFO", "ORD"], rows),
            "carrier": carrier,
            "origin": rng.choice(["EWR", "JFK", "LGA"], rows),
            "distance": rng.uniform(200, 2500, rows).astype(np.float32),
            "hour": hour,
            "weather__temp": pa.array(temp, mask=rng.random(rows) < 0.05),
            "route__delay": delay,
            "label": label,
            "split": ["train"] * (rows - 300) + ["holdout"] * 300,
        }
    )


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory, tiny_examples: pa.Table, tiny_contract: FeatureContract) -> Path:
    """A package of a logistic regression.

    String inputs `carrier` and `origin`, float request inputs `distance` and `hour`, looked-up `weather__temp` and
    `route__delay`. Treat it as read-only; copy it to change it.
    """
    import pandas as pd
    import pyarrow.compute as pc
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    from tidegate.packaging.inputs import training_arrays
    from tidegate.packaging.packager import Examples, PackageSettings, package_model
    from tidegate.packaging.sources.opening import wrap_model

    training = tiny_examples.filter(pc.equal(tiny_examples["split"], "train"))
    holdout = tiny_examples.filter(pc.equal(tiny_examples["split"], "holdout"))
    texts, numbers = ["carrier", "origin"], ["distance", "hour", "weather__temp", "route__delay"]
    model = make_pipeline(
        ColumnTransformer(
            [
                ("texts", OneHotEncoder(handle_unknown="ignore"), texts),
                ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            ]
        ),
        LogisticRegression(),
    )
    model.fit(pd.DataFrame(training_arrays(training, texts + numbers)), training["label"].to_numpy())
    out = tmp_path_factory.mktemp("tiny") / "package"
    package_model(
        wrap_model(model, "regression"),
        candidate="regression",
        examples=Examples(training=training, reference=holdout, label_column="label"),
        settings=PackageSettings(
            name="tiny", classes=("on-time", "late"), request_inputs=REQUEST_INPUTS, contract=tiny_contract
        ),
        out=out,
    )
    return out


@pytest.fixture
def make_package(tmp_path: Path) -> Callable[..., Path]:
    """Make packages that verify and differ by `content`, for tests that never run the graph: `make_package("a", name="m")`."""

    def make(content: str = "first", *, name: str = "flights-late") -> Path:
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            task="binary-classification",
            name=name,
            signature=Signature(
                inputs=(TensorSpec(name="distance", datatype="FP32", shape=(-1, 1)),),
                outputs=(TensorSpec(name="probability", datatype="FP32", shape=(-1,)),),
            ),
            classes=("on-time", "late"),
            threshold=0.5,
            variant=Variant(name="baseline", candidate="trees"),
            runtime=Runtime(),
            metrics={"roc_auc": 0.71},
            files={},
        )
        golden = Golden({"distance": np.zeros((2, 1), np.float32)}, {"probability": np.zeros(2, np.float32)})
        reference = pa.table({"distance": [1.0], "probability": [0.5], "label": [0]})
        path = tmp_path / "packages" / f"{name}-{content}"
        write_package(path, manifest, model=f"graph {content}".encode(), golden=golden, reference=reference)
        return path

    return make
