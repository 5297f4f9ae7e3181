"""What a step may tell the pipeline as a parameter: Kubeflow hands parameters on in command lines and records of small size.

One argument of a process holds 128 KiB on Linux, and all parameters of a step travel in one; Kubeflow's API takes 10,000 bytes
for all parameters of a run (backend/src/common/util/consts.go, Kubeflow Pipelines in August 2026). The rest are artifacts.
"""

import json
from collections.abc import Sequence

from tidegate.errors import PipelineError

LARGEST_BYTES = 4096
_CUT = " … (cut)"


def text_parameter(text: str) -> str:
    """Return a text as a parameter: on one line, and cut if it is longer than `LARGEST_BYTES`; its record holds it whole."""
    encoded = " ".join(text.split()).encode(errors="replace")
    if len(encoded) <= LARGEST_BYTES:
        return encoded.decode()
    return encoded[: LARGEST_BYTES - len(_CUT.encode())].decode(errors="ignore") + _CUT


def list_parameter(name: str, items: Sequence[str]) -> list[str]:
    """Return a list as a parameter.

    Raises:
        PipelineError: It is larger than `LARGEST_BYTES` as JSON.
    """
    size = len(json.dumps(list(items)).encode())
    if size > LARGEST_BYTES:
        raise PipelineError(f"{name}: {len(items)} of them are {size} bytes of JSON, more than {LARGEST_BYTES}; have fewer")
    return list(items)
