"""The flights example's two project files."""

from pathlib import Path

import yaml

from examples.flights import demo
from tidegate.project import load_project


def read(file: Path) -> dict:
    return yaml.safe_load(file.read_text())


def test_challenger_is_the_project_with_another_feature_service():
    project, challenger = read(demo.PROJECT_FILE), read(demo.CHALLENGER_FILE)

    assert project["features"].pop("service") == "flights_late_v1"
    assert challenger["features"].pop("service") == "flights_late_v2"
    assert project == challenger


def test_both_are_of_one_model_in_one_workspace():
    project, challenger = load_project(demo.PROJECT_FILE), load_project(demo.CHALLENGER_FILE)

    assert (project.name, project.paths, project.store_uri) == (challenger.name, challenger.paths, challenger.store_uri)
    assert project.gates == challenger.gates
    assert project.rollout == challenger.rollout


def test_dates_of_the_demo_leave_a_whole_window_before_each_check():
    project = load_project(demo.PROJECT_FILE)

    assert demo.CHECKED_EVERY.days >= project.monitoring.window_days
    assert demo.TRAINED_UNTIL < demo.GUARD_SHOWN_AT < demo.REPLAYED_UNTIL
    assert demo.TRAINED_UNTIL.year == demo.REPLAYED_UNTIL.year == 2013
