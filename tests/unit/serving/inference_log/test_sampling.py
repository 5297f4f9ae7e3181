"""A sample is decided by the request's id: evenly, alike everywhere, and a smaller one is part of a larger one."""

import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.serving.inference_log.sampling import is_sampled

COUNT = 20_000


def server_ids() -> Iterator[str]:
    return (f"5f3a9b2c11d04e77-{number:x}" for number in range(COUNT))


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(list(server_ids()), id="issued by the server"),
        pytest.param([str(number) for number in range(COUNT)], id="counted"),
        pytest.param([f"order-{number:09d}" for number in range(COUNT)], id="counted with leading zeros"),
        pytest.param([str(uuid.UUID(int=number * 7919)) for number in range(COUNT)], id="alike but for the end"),
    ],
)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_requests_is_the_one_asked_for(ids: list[str], share: float) -> None:
    kept = sum(is_sampled(request_id, share) for request_id in ids)
    deviation = (COUNT * share * (1 - share)) ** 0.5
    assert abs(kept - COUNT * share) < 5 * deviation


@given(st.text(max_size=20), st.floats(0.0001, 1), st.floats(0.0001, 1))
@settings(max_examples=50, deadline=None)
def test_a_smaller_sample_is_part_of_a_larger_one(request_id: str, one: float, other: float) -> None:
    smaller, larger = sorted((one, other))
    assert is_sampled(request_id, larger) >= is_sampled(request_id, smaller)
    assert is_sampled(request_id, 1.0)


def test_every_process_decides_alike() -> None:
    script = (
        "from tidegate.serving.inference_log.sampling import is_sampled\n"
        "print([number for number in range(100) if is_sampled(f'r{number}', 0.2)])"
    )
    chosen = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert chosen.strip() == str([number for number in range(100) if is_sampled(f"r{number}", 0.2)])
