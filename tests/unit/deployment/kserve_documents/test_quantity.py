"""Kubernetes quantities as numbers."""

import pytest

from tidegate.deployment.kserve.quantity import mebibytes


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        pytest.param("512Mi", 512, id="mebibytes"),
        pytest.param("2Gi", 2048, id="gibibytes"),
        pytest.param("1.5Gi", 1536, id="fraction"),
        pytest.param("1048576", 1, id="bytes"),
        pytest.param("1024Ki", 1, id="kibibytes"),
        pytest.param("1M", 1e6 / 1024**2, id="megabytes"),
        pytest.param("1048576000m", 1, id="thousandths"),
    ],
)
def test_mebibytes(quantity, expected):
    assert mebibytes(quantity) == pytest.approx(expected)


@pytest.mark.parametrize("quantity", ["", "much", "1Gib", "-1Gi", "1 Gi"])
def test_what_is_no_quantity_is_refused(quantity):
    with pytest.raises(ValueError, match="is not a quantity"):
        mebibytes(quantity)
