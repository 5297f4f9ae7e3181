"""Runs the user's train function and writes its fitted candidates, one `model.joblib` each.

names = train_candidates(project, Path("training_set.parquet"), Path("source"))     # ['mlp', 'trees']
# source/mlp/model.joblib, source/trees/model.joblib
"""

import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidegate.errors import DataError, TidegateError, TrainingError
from tidegate.packaging.inputs import training_arrays
from tidegate.project import Project
from tidegate.storage.folders import fresh_folder_beside, put_in_place
from tidegate.training.contract import TrainingData
from tidegate.training.training_set import SPLIT_COLUMN, model_input_columns, read_training_set
from tidegate.training.user_code import describe, importable, load_function

if TYPE_CHECKING:
    import pandas as pd

SOURCE_MODEL = "model.joblib"
_CANDIDATE = re.compile(r"[a-z][-a-z0-9]{0,39}")
_ROWS_TRIED = 64


def train_candidates(project: Project, training_set: Path, out: Path) -> list[str]:
    """Call the project's train function on the `train` split and write what it returns.

    Args:
        project: The project file; names the function, its parameters and the seed.
        training_set: Parquet file that `build_training_set` made.
        out: Directory to write `<candidate>/model.joblib` into; what it held before is replaced as a whole.

    Returns:
        The candidates' names, sorted.

    Raises:
        DataError: The training set is malformed or its `train` split is empty.
        TrainingError: The function is missing, raised, or returned something that is not a fitted binary classifier.
            The whole traceback then lies in `<out>.log`; nothing is written into `out`.
    """
    import joblib

    data = _training_data(project, training_set)
    log = out.with_name(f"{out.name}.log")
    log.unlink(missing_ok=True)
    with importable(project.paths.root):
        candidates = _checked(project, _call(project, data, log), data)
        try:
            with fresh_folder_beside(out) as fresh:
                for name, model in candidates.items():
                    (fresh / name).mkdir()
                    joblib.dump(model, fresh / name / SOURCE_MODEL)
                put_in_place(fresh, out)
        except (OSError, TypeError, AttributeError, ValueError) as error:
            raise TrainingError(f"{out}: the candidates could not be written: {error}") from error
        except Exception as error:  # pickling reports what it cannot do with errors of its own
            raise TrainingError(f"{out}: a candidate could not be pickled: {error}") from error
    return sorted(candidates)


def model_inputs(project: Project, table: pa.Table) -> "pd.DataFrame":
    """Return the model's inputs of a training set as the model sees them; see `TrainingData.inputs`."""
    import pandas as pd

    return pd.DataFrame(training_arrays(table, model_input_columns(project, table)))


def _training_data(project: Project, training_set: Path) -> TrainingData:
    table = read_training_set(project, str(training_set))
    table = table.filter(pc.equal(table[SPLIT_COLUMN], "train"))
    if table.num_rows == 0:
        raise DataError(f"training set {training_set}: the train split holds no rows; widen training.window_days")
    return TrainingData(
        inputs=model_inputs(project, table),
        label=table[project.label.column].to_numpy().astype(np.int64),
        parameters=dict(project.training.parameters),
        seed=project.training.seed,
    )


def _call(project: Project, data: TrainingData, log: Path) -> Any:
    reference = project.training.function
    try:
        return load_function(reference, project.paths.root)(data)
    except TidegateError as error:
        _keep_traceback(log, error.__cause__ or error)
        raise
    except (Exception, SystemExit) as error:
        _keep_traceback(log, error)
        raise TrainingError(
            f"training.function {reference!r} raised {describe(error, project.paths.root)}; whole traceback: {log}"
        ) from error


def _keep_traceback(log: Path, error: BaseException) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(traceback.format_exception(error)))


def _checked(project: Project, returned: Any, data: TrainingData) -> dict[str, Any]:
    reference = project.training.function
    candidates = returned if isinstance(returned, dict) else {"model": returned}
    if not candidates:
        raise TrainingError(f"training.function {reference!r} returned no candidate; return at least one fitted classifier")
    for name, model in candidates.items():
        if not isinstance(name, str) or not _CANDIDATE.fullmatch(name):
            raise TrainingError(f"training.function {reference!r}: candidate name {name!r} must match {_CANDIDATE.pattern!r}")
        problem = _problem_with(model, data)
        if problem:
            raise TrainingError(f"training.function {reference!r}: candidate {name!r} {problem}")
    return candidates


def _problem_with(model: Any, data: TrainingData) -> str | None:
    if not callable(getattr(model, "predict_proba", None)):
        return f"is {type(model).__name__}, which has no predict_proba; return a fitted classifier"
    try:
        classes = np.asarray(model.classes_)
    except AttributeError:
        return f"({type(model).__name__}) has no classes_; fit it before returning it"
    if classes.tolist() != [0, 1]:
        return f"has classes_ {classes.tolist()}; [0, 1] is needed"
    tried = data.inputs.head(_ROWS_TRIED)
    try:
        probabilities = np.asarray(model.predict_proba(tried))
    except Exception as error:
        return f"cannot predict the rows it was trained on: {error}"
    if probabilities.shape != (len(tried), 2):
        return f"predicts an array of shape {probabilities.shape}; {(len(tried), 2)} is needed"
    if not np.isfinite(probabilities).all() or probabilities.min() < 0 or probabilities.max() > 1:
        return "predicts values that are not probabilities between 0 and 1"
    return None
