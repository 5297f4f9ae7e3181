"""The errors Tidegate raises on purpose: each is one clear line that names the field, the value, the bound and the fix."""


class TidegateError(Exception):
    """Base of every expected failure. The CLI prints its message on one line and exits non-zero, without a traceback."""


class ProjectError(TidegateError):
    """The project file is missing, malformed, or asks for something that is not allowed."""


class StorageError(TidegateError):
    """An object store could not be read or written."""


class ObjectNotFound(StorageError):
    """The named object does not exist."""


class PreconditionFailed(StorageError):
    """A conditional write lost: the object exists already, or changed since it was read."""


class FeatureError(TidegateError):
    """Features could not be defined, joined, materialized or looked up."""


class DataError(TidegateError):
    """Input data is missing a column, has a wrong dtype, or holds no rows where rows are needed."""


class TrainingError(TidegateError):
    """The user's train function is missing, raised, or returned something that is not a model."""


class PackageError(TidegateError):
    """A model package is malformed, corrupted, or does not match its manifest."""


class OptimizationError(TidegateError):
    """A variant could not be built or measured, or no variant survived the gates."""


class RegistryError(TidegateError):
    """The model registry refused an operation, or holds no such model, version or alias."""


class ServingError(TidegateError):
    """The model server could not start, or was asked for something it cannot do."""


class DeploymentError(TidegateError):
    """An InferenceService is invalid, or the target could not bring it to the desired state."""


class RolloutError(TidegateError):
    """A rollout could not start, continue, or be found."""


class MonitoringError(TidegateError):
    """A drift check could not be made: no window, no reference, or a malformed report."""


class PipelineError(TidegateError):
    """A pipeline could not be compiled or a run failed."""


def in_one_line(error: BaseException, most: int = 300) -> str:
    """Return what another library's error says, in one line of at most `most` characters, or its type's name if nothing."""
    return (" ".join(str(error).split()) or type(error).__name__)[:most]
