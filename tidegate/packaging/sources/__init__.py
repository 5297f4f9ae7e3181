"""Source models: what training produced, each framework in a file of its own that knows how to read, run and convert it."""
