"""A million requests of every kind to one server, and its memory after each second of them: it must not grow.

python -m benchmarks.serving soak --requests 1000000
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import theilslopes

from benchmarks.serving import clients
from benchmarks.serving.contestants import Contestant
from benchmarks.serving.models import Case
from benchmarks.serving.processes import cores
from benchmarks.serving.requests import LOADS, answer
from benchmarks.serving.rounds import Say

_CONNECTIONS = 8
_FLAT_MB = 10.0  # of growth in a million requests
_WARM = 0.25  # share of the samples before its caches and buffers have their size


def measure(case: Case, contestant: Contestant, requests: int, folder: Path, say: Say) -> dict[str, Any]:
    """Return resident memory over so many requests, and its slope in the last three quarters, with its 95 % interval."""
    samples: list[tuple[int, float]] = []
    done, turn = 0, 0
    with contestant.started(case, folder) as server:
        able = [request for load in LOADS if (request := contestant.request(case, load)) and clients.can_load(request)]
        ports = [server.grpc_port if request.is_grpc else server.http_port for request in able]
        sizes = [answer(request, port)[1] for request, port in zip(able, ports, strict=True)]
        while done < requests:
            kind = turn % len(able)
            seen = clients.load(
                able[kind],
                ports[kind],
                connections=_CONNECTIONS,
                seconds=1,
                core=cores()[1],
                folder=folder,
                answer_bytes=sizes[kind],
            )
            done, turn = done + seen.requests, turn + 1
            samples.append((done, server.resident_mb()))
            say(f"soak: {done:,} of {requests:,} requests, {samples[-1][1]:.1f} MB")
    return {"requests": done, "samples": samples, "mb_per_million": slope(samples), "flat_below_mb": _FLAT_MB}


def slope(samples: Sequence[tuple[int, float]]) -> tuple[float, float, float]:
    """Return megabytes a million requests after the warm-up, and the ends of the 95 % interval.

    The Theil-Sen estimator, which a few samples taken in the middle of a burst do not move (Sen, 1968).

    >>> slope([(count, 100 + count / 1e6) for count in range(0, 1_000_000, 50_000)])
    (1.0, 1.0, 1.0)
    """
    late = np.array(samples[int(len(samples) * _WARM) :], dtype=float)
    found = theilslopes(late[:, 1], late[:, 0] / 1e6, alpha=0.95)
    return tuple(round(float(value), 6) for value in (found.slope, found.low_slope, found.high_slope))  # type: ignore[return-value]


def asked(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is asked of it: no growth worth mentioning, with the whole interval."""
    worst = measured["mb_per_million"]
    return [
        {
            "what": f"growth of memory, MB in a million requests, over {measured['requests']:,}",
            "bound": _FLAT_MB,
            "is_least": False,
            "worst": worst,
            "at": "trees, all kinds in turn",
            "met": int(worst[2] <= _FLAT_MB),
            "of": 1,
        }
    ]
