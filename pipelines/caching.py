"""Caching is off for every step: each looks at the world or writes to it, and a cached check is a silent failure."""

from kfp import dsl


def uncached(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Turn caching off for a task, and return it."""
    return task.set_caching_options(enable_caching=False)
