"""How long a model server may take to stop, so that neither a node nor the supervisor kills it before it is done."""

import math
from collections.abc import Mapping

from tidegate.serving.settings import settings

_WRITING_SECONDS = 15  # for what the inference log still holds, and for leaving


def stopping_seconds(env: Mapping[str, str]) -> int:
    """Return the seconds from SIGTERM after which a model server with these settings may be killed.

    It goes on, unready, for its drain delay; then requests in flight have the drain time; then the inference log is written.
    """
    waits = [env.get(setting.variable, setting.default) for setting in settings() if setting.name in _WAITS]
    return math.ceil(sum(map(float, waits))) + _WRITING_SECONDS


_WAITS = ("drain_delay_seconds", "drain_seconds")
