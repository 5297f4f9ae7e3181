"""Which class a classification is answered with."""

from pathlib import Path

import numpy as np
import pytest

from tests import small_packages
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.labels import Labels


def test_of_two_classes_the_second_is_answered_from_the_threshold_on(tiny_package: Path) -> None:
    labels = Labels(read_manifest(tiny_package))
    outputs = {"probability": np.array([0.49, 0.5, np.nan], np.float32)}
    assert labels.exist
    assert labels.of(outputs).tolist() == ["on-time", "late", "on-time"]
    assert labels.numbers(outputs).tolist() == [0, 1, 0]


def test_of_more_classes_the_most_probable_is_answered(tmp_path: Path) -> None:
    labels = Labels(read_manifest(small_packages.multiclass(tmp_path / "package")))
    outputs = {"probabilities": np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]], np.float32)}
    assert labels.exist
    assert labels.of(outputs).tolist() == ["versi color", "setosa"]
    assert labels.numbers(outputs).tolist() == [1, 0]


@pytest.mark.parametrize("make", [small_packages.regression, small_packages.image])
def test_other_tasks_have_none(make: object, tmp_path: Path) -> None:
    assert callable(make)
    assert not Labels(read_manifest(make(tmp_path / "package"))).exist
