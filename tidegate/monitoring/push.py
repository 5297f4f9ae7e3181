"""The numbers of a drift check for Prometheus, by way of a Pushgateway: the check ends before it could be scraped.

Each push replaces the model's numbers of the check before (PUT of the Pushgateway's HTTP API). `tidegate_drift_checked_…` is
when it was, so an alert tells a check that fails, or is no longer run, from one that finds nothing.
"""

import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime
from http.client import HTTPException

from tidegate.errors import MonitoringError
from tidegate.monitoring.records import DriftCheck
from tidegate.serving.metrics.names import DRIFT_CHECKED, DRIFT_DETECTED, DRIFT_INDEX, PUSHED_METRICS

_TIMEOUT = 5.0  # seconds, of one request
_ATTEMPTS = 3
_PAUSE = 0.5  # seconds, between two attempts


def push_drift_check(pushgateway: str, namespace: str, check: DriftCheck, *, at: datetime) -> None:
    """Push what a drift check found.

    Args:
        pushgateway: Its address, such as `http://pushgateway.monitoring:9091`.
        namespace: The namespace of the model's InferenceService; a label of every number.
        check: The check; its model is a label too.
        at: When it was made, by the clock on the wall.

    Raises:
        MonitoringError: The Pushgateway did not take it.
    """
    labels = {"namespace": namespace, "model": check.model}
    group = "".join(f"/{name}/{urllib.parse.quote(value, safe='')}" for name, value in labels.items())
    request = urllib.request.Request(  # noqa: S310 - the project file admits HTTP only
        f"{pushgateway}/metrics/job/tidegate-drift{group}",
        exposition(check, at=at).encode(),
        {"Content-Type": "text/plain; version=0.0.4"},
        method="PUT",
    )
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310 - as above
                return
        except urllib.error.HTTPError as error:
            said = " ".join(error.read(200).decode(errors="replace").split())
            raise MonitoringError(f"the Pushgateway at {pushgateway} answers {error.code}: {said or error.reason}") from error
        except (OSError, HTTPException) as error:
            if attempt == _ATTEMPTS:
                reason = getattr(error, "reason", error)
                raise MonitoringError(f"the Pushgateway at {pushgateway} cannot be reached: {reason}") from error
        time.sleep(_PAUSE)


def exposition(check: DriftCheck, *, at: datetime) -> str:
    """Return what a drift check found, in Prometheus's text format; a window with too few rows never counts as drifted."""
    drifted = {"data": check.data_drifted, "prediction": check.prediction.drifted, "concept": check.concept.drifted}
    samples = {
        DRIFT_CHECKED: [("", at.timestamp())],
        DRIFT_DETECTED: [(f'{{kind="{kind}"}}', float(check.counted and found)) for kind, found in drifted.items()],
        DRIFT_INDEX: [(f'{{column="{_escaped(column.column)}"}}', column.psi) for column in check.columns],
    }
    lines = []
    for name, values in samples.items():
        lines.append(f"# HELP {name} {PUSHED_METRICS[name].purpose}\n# TYPE {name} {PUSHED_METRICS[name].kind}")
        lines.extend(f"{name}{labels} {value!r}" for labels, value in values)
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
