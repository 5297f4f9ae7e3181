"""Which columns of a sample a model's inputs are."""

import pytest

from tidegate.errors import PackageError
from tidegate.packaging.sources.tensors import DeclaredInput, bind

OPTIONAL = [
    DeclaredInput(name=name, datatype="INT64", shape=(-1, -1), required=False) for name in ("input_ids", "attention_mask")
]


def test_optional_inputs_are_those_that_the_sample_has() -> None:
    assert list(bind("bert", OPTIONAL, ["attention_mask", "text"])) == ["attention_mask"]


def test_a_sample_with_none_of_a_model_s_inputs_is_refused() -> None:
    with pytest.raises(PackageError, match="it reads input_ids, attention_mask, and none of them is among text, label"):
        bind("bert", OPTIONAL, ["text", "label"])
