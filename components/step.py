"""What every component has in common: an image, set when the pipelines are compiled, and the version that it must hold.

No package is installed when a step runs. Before anything else the step checks that its image holds the version of Tidegate that
compiled it: the function's source travels in the compiled pipeline, what it calls is in the image, and the two must fit.
"""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from tidegate import __version__

PLACEHOLDER_IMAGE = f"tidegate/project@sha256:{'0' * 64}"
_CHECK = f"""
from tidegate.compiled import require_version
require_version({__version__!r})
"""


def step(function: Callable[..., Any]) -> dsl.base_component.BaseComponent:
    """Make a component of a function."""
    component = dsl.component(function, base_image=PLACEHOLDER_IMAGE, install_kfp_package=False)
    command = component.component_spec.implementation.container.command
    command[-1] = _CHECK + command[-1]  # its last part is the source that kfp's executor loads
    return component
