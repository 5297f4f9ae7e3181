"""The optimizations: one class a file, found by name. A file added here is a new optimization; nothing else need change."""

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache

from tidegate.errors import OptimizationError
from tidegate.optimization.variants.builder import Target, VariantBuilder


def variant_names(target: Target = "cpu") -> tuple[str, ...]:
    """Return the names of the variants that a target can have, simplest first."""
    return tuple(name for name, builder in _all().items() if target in builder.targets)


def variant_builder(name: str) -> VariantBuilder:
    """Return the builder of the variant called `name`, with its parameters; raises OptimizationError."""
    try:
        return _all()[name]
    except KeyError:
        raise OptimizationError(f"variant {name!r} is unknown; allowed: {', '.join(_all())}") from None


def simplicity(name: str) -> int:
    """Return a variant's complexity, by which ties are decided; the baseline, which changes nothing, has 0."""
    return _all()[name].complexity if name in _all() else 0


@cache
def _all() -> dict[str, VariantBuilder]:
    found = [setting for builder in _classes() for setting in builder.settings().items()]
    return dict(sorted(found, key=lambda item: item[1].complexity))  # stable: settings stay in their class's order


def _classes() -> Iterator[type[VariantBuilder]]:
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            own = isinstance(value, type) and value.__module__ == module.name
            if own and hasattr(value, "settings") and value is not VariantBuilder:
                yield value
