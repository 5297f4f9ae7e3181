"""A row that the tiny package answers."""

TINY_ROW: dict[str, str | float] = {"carrier": "UA", "origin": "EWR", "dest": "SFO", "distance": 1000.0, "hour": 9.5}
