"""What is read in compiled pipelines: the golden ones, as Kubeflow holds them, with and without their platform's settings."""

from pathlib import Path

import pytest
import yaml

from components.step import PLACEHOLDER_IMAGE
from pipelines.ir import images, specification, steps

COMPILED = Path(__file__).parents[3] / "pipelines/compiled"


@pytest.mark.parametrize(
    ("pipeline", "some"),
    [
        pytest.param(
            "release", {"materialize-features", "train-models", "build-variant", "roll-out"}, id="loops-and-conditions"
        ),
        pytest.param("drift", {"check-drift", "begin-retraining", "train-models"}, id="nested-pipeline"),
        pytest.param("batch", {"score-batch"}, id="one-step"),
    ],
)
def test_steps_are_the_tasks_that_run_a_container(pipeline, some):
    ir, *platform = yaml.safe_load_all((COMPILED / f"{pipeline}.yaml").read_text())

    found = set(steps(specification({"pipeline_spec": ir, "platform_spec": platform[0]} if platform else ir)))

    assert some <= found
    assert not any(name.endswith(("-driver", "-passed")) or name in ("root", "variants") for name in found)
    assert found == set(steps(specification(ir)))
    assert images(ir) == [PLACEHOLDER_IMAGE]


@pytest.mark.parametrize("held", [None, {}, {"pipeline_spec": None}])
def test_pipeline_that_is_not_held_has_no_steps(held):
    assert list(steps(specification(held))) == []
    assert images(specification(held)) == []
