"""Which packages a drift check watches; the checks themselves are held against real logs in tests/integration/monitoring."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from tests import small_packages
from tidegate.errors import MonitoringError
from tidegate.monitoring.check import check_drift
from tidegate.packaging.format.golden import Golden, read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, LABEL, MODEL_NAME, Signature, TensorSpec
from tidegate.packaging.format.package import read_manifest, write_package
from tidegate.project import load_project
from tidegate.registry.registry import ModelRegistry
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.table import LogTableBuilder
from tidegate.serving.inference_log.writer import parquet_bytes
from tidegate.storage import ObjectStore

NOW = datetime(2013, 6, 1, tzinfo=UTC)


def binary_of_images(to: Path) -> Path:
    """Make a binary classifier of images out of `digits`; its graph is never run."""
    digits = small_packages.image(to.parent / "digits")
    manifest = read_manifest(digits)
    inputs = read_golden(digits / GOLDEN_NAME).inputs
    probability = np.linspace(0, 1, small_packages.ROWS, dtype=np.float32)
    write_package(
        to,
        msgspec.structs.replace(
            manifest,
            task="binary-classification",
            classes=("even", "odd"),
            threshold=0.5,
            signature=Signature(
                inputs=manifest.signature.inputs,
                outputs=(TensorSpec(name="probability", datatype="FP32", shape=(-1,)),),
            ),
        ),
        model=digits / MODEL_NAME,
        golden=Golden(inputs, {"probability": probability}),
        reference=pa.table({"probability": probability, LABEL: [0, 1] * 3}),
    )
    return to


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(small_packages.multiclass, "has task multiclass-classification; drift checks", id="many classes"),
        pytest.param(small_packages.regression, "has task regression; drift checks watch binary", id="regression"),
        pytest.param(small_packages.tokens, "has task tensors; drift checks watch binary", id="tensors"),
        pytest.param(binary_of_images, "reads tensors only; drift checks compare inputs of one value a row", id="images"),
    ],
)
def test_what_cannot_be_watched_is_told_in_one_line(
    make: Callable[[Path], Path], message: str, tmp_path: Path, project_text: str, store: ObjectStore
) -> None:
    package = make(tmp_path / "package")
    manifest = read_manifest(package)
    registry = ModelRegistry(store)
    version = registry.register(package, reason="test")
    registry.move_alias(manifest.name, "champion", version, reason="test", expected=None)
    golden = read_golden(package / GOLDEN_NAME)
    asked = LogRecord("r1", golden.rows, NOW - timedelta(hours=1), 0, 200, 1, {}, golden.inputs, outputs=golden.outputs)
    builder = LogTableBuilder(manifest, model=manifest.name, version="1", revision="v1")
    written = parquet_bytes(builder.table(list(builder.batches([asked]))))
    store.put(f"inference-log/{manifest.name}/version=1/hour=2013-05-31T23/a.parquet", written)
    (tmp_path / "tidegate.yaml").write_text(project_text.replace("name: flights-late", f"name: {manifest.name}"))

    with pytest.raises(MonitoringError, match=message):
        check_drift(load_project(tmp_path / "tidegate.yaml"), store, registry, NOW)
