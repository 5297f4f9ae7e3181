"""A served model: checks a request, looks its features up, runs the graph."""
