"""Fixtures for unit tests: the text of a project file that holds no mistake."""

import pytest


@pytest.fixture
def project_text() -> str:
    """A project file with every section, most of them at their defaults."""
    return """\
schema_version: 1
name: flights-late
task: binary-classification
features:
  repository: feature_repo
  service: flights_v1
  entity_rows: data/flights.parquet
  id_column: flight_id
  request_inputs: [carrier, distance]
label:
  column: late
  known_at_column: landed_at
  classes: [on-time, late]
training:
  function: train:train
  window_days: 90
  holdout_days: 14
gates:
  accuracy: {minimum: 0.6}
serving:
  workers: 2
  log: {rotate_rows: 1000}
rollout:
  steps: [5, 50, 100]
monitoring:
  window_days: 7
  policy: {drifted_windows: 2, of_windows: 3}
"""
