"""The pipelines by name."""

from pipelines.batch import batch
from pipelines.drift import drift
from pipelines.release import release

PIPELINES = {"release": release, "drift": drift, "batch": batch}
