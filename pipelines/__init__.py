"""The pipelines (release, drift, batch), and the command that compiles and runs them: `python -m pipelines`."""
