"""What a window of the inference log shows of the traffic: how large a sample, and which columns were redacted."""

import pyarrow as pa
import pyarrow.compute as pc

from tidegate.serving.inference_log.redaction import redacted_names
from tidegate.serving.inference_log.sampling import is_sampled

_SHARE = "sample_share"
_REDACTED = "redacted"


def evenly_sampled(window: pa.Table) -> pa.Table:
    """Return a window whose rows all had the same chance to be logged.

    Where the share of logged requests was changed within the window, its hours would weigh differently. A request is logged if
    its id lies below the share, so the requests that the smallest share holds are the ones to keep of all.

    Args:
        window: What `read_window` returned; without the column `sample_share`, or with nulls in it, all requests were logged.
    """
    if _SHARE not in window.column_names or window.num_rows == 0:
        return window
    shares = pc.fill_null(window[_SHARE], 1.0)
    smallest = pc.min(shares).as_py()
    if smallest == pc.max(shares).as_py():
        return window
    return window.filter(pa.array([is_sampled(request_id, smallest) for request_id in window["request_id"].to_pylist()]))


def redacted_in(window: pa.Table) -> set[str]:
    """Return the keys, inputs and outputs that are redacted in any row of the window."""
    if _REDACTED not in window.column_names:
        return set()
    found = pc.unique(window[_REDACTED]).drop_null().to_pylist()
    return {name for words in found for name in redacted_names(words)}
