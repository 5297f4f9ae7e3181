"""docs/variants.md names every CPU variant, and its example of a new one works."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from tidegate.optimization.variants import variant_names
from tidegate.packaging.format.manifest import MODEL_NAME, Runtime

PAGE = (Path(__file__).parents[4] / "docs" / "variants.md").read_text()


def test_every_variant_has_its_row_in_order() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]

    assert [name for row in rows for name in re.findall(r"`([^`]+)`", row)] == list(variant_names())


def test_the_example_is_a_builder(package: Callable[[str], Path]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "docs/variants.md", "exec", dont_inherit=True), names)  # noqa: S102
    (builder,) = names["Undocumented"].settings().values()
    model = onnx.load(package("dense") / MODEL_NAME)

    assert (builder.name, builder.parameters) == ("undocumented", {})
    assert builder.applies(model) == "no node is documented"
    model.graph.node[0].doc_string = "what it does"
    assert builder.applies(model) is None
    assert builder.build(package("dense"), Runtime()).graph == (package("dense") / MODEL_NAME).read_bytes()
