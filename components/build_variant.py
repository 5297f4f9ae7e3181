"""Component: build one variant of one candidate, or say why it does not apply."""

from kfp import dsl

from components.step import step


@step
def build_variant(name: str, packages: dsl.Input[dsl.Model], variant: dsl.Output[dsl.Model]) -> None:
    from pathlib import Path

    from tidegate.optimization.search.search import build_variant as build
    from tidegate.release.parameters import text_parameter

    outcome = build(Path(packages.path), name, Path(variant.path))
    variant.metadata["name"] = name
    variant.metadata["built"] = outcome.built
    variant.metadata["reason"] = text_parameter(outcome.reason)
