"""What a failed run's log tells: one line with the task and its error."""

import pytest

from pipelines.failure import failure_cause

ENDED = "12:00:01.000 - ERROR - Task '\x1b[96m{task}\x1b[0m' finished with status \x1b[91mFAILURE\x1b[0m"
STARTED = "12:00:00.000 - INFO - Executing task '\x1b[96m{task}\x1b[0m'"
TRACEBACK = """\
    Traceback (most recent call last):
      File "x.py", line 3, in train
        raise {raised}
    {raised}"""


def log(*parts: str) -> str:
    return "\n".join(parts) + "\n"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        pytest.param(
            log(
                STARTED.format(task="train-models"),
                TRACEBACK.format(raised="ValueError: no"),
                ENDED.format(task="train-models"),
            ),
            "train-models: ValueError: no",
            id="builtin-error",
        ),
        pytest.param(
            log(
                STARTED.format(task="train-models"),
                TRACEBACK.format(raised="tidegate.errors.DataError: column 'x' is missing"),
                ENDED.format(task="train-models"),
            ),
            "train-models: column 'x' is missing",
            id="own-error-without-its-module",
        ),
        pytest.param(
            log(
                STARTED.format(task="roll-out"),
                TRACEBACK.format(raised="tidegate.errors.RolloutError: the target is gone").replace("    ", " " * 24),
                "    Output: promoted",
                ENDED.format(task="roll-out"),
            ),
            "roll-out: the target is gone",
            id="in-a-nested-pipeline",
        ),
        pytest.param(
            log(
                TRACEBACK.format(raised="KeyError: 'first'"),
                "    The above exception was the direct cause of the following exception:",
                TRACEBACK.format(raised="tidegate.errors.TrainingError: it raised KeyError"),
                ENDED.format(task="train-models"),
            ),
            "train-models: it raised KeyError",
            id="last-of-a-chain",
        ),
        pytest.param(
            log(TRACEBACK.format(raised="KeyboardInterrupt: "), ENDED.format(task="roll-out")),
            "roll-out: KeyboardInterrupt",
            id="no-error-but-an-exception",
        ),
        pytest.param(
            log(
                ENDED.format(task="first"),
                TRACEBACK.format(raised="ValueError: consequence"),
                ENDED.format(task="second"),
            ),
            "first: ended without an error",
            id="first-failed-task-counts",
        ),
        pytest.param(log(ENDED.format(task="build-variant")), "build-variant: ended without an error", id="killed"),
        pytest.param(log("Traceback", "SyntaxError: invalid"), "SyntaxError: invalid", id="no-task-at-all"),
        pytest.param("", "the run ended without a word", id="empty"),
    ],
)
def test_cause_is_one_line_that_names_task_and_error(text, cause):
    assert failure_cause(text) == cause
