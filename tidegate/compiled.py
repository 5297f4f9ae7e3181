"""What a compiled pipeline expects of the image that its steps run in."""

from tidegate import __version__
from tidegate.errors import PipelineError


def require_version(compiled: str) -> None:
    """Refuse to run a step that was compiled by another version of Tidegate than this one.

    Raises:
        PipelineError: The versions differ.
    """
    if compiled != __version__:
        raise PipelineError(
            f"the pipeline was compiled by tidegate {compiled}, but this image holds tidegate {__version__}; "
            "compile it again by the image's version, or build the image anew"
        )
