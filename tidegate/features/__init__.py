"""Features through Feast: point-in-time training sets, materialization, and online lookups by entity key."""
