"""Which requests a sampled inference log holds: decided by the request's id alone.

So a retry is logged exactly if the first attempt was, every worker and version decides alike, and what a smaller share holds
is part of what a larger one does.
"""

import zlib

_MIX = (
    0x9E3779B1  # 2**32 / golden ratio, odd: spreads what neighbouring ids share (Knuth, The Art of Computer Programming, 6.4)
)
_MASK = 0xFFFFFFFF


def is_sampled(request_id: str, share: float) -> bool:
    """Return whether a log of `share` of the requests, in (0, 1], holds this one."""
    return _point(request_id) < share


def _point(request_id: str) -> float:
    """Return where in [0, 1) a request lies; ids fall evenly over it."""
    mixed = zlib.crc32(request_id.encode(errors="surrogatepass")) * _MIX & _MASK
    return (mixed ^ mixed >> 16) * _MIX % 2**32 / 2**32
