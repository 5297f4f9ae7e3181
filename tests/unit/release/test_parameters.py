"""Parameters stay small, and one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import PipelineError
from tidegate.release.parameters import LARGEST_BYTES, list_parameter, text_parameter


@given(st.text(max_size=3 * LARGEST_BYTES))
def test_text_is_one_line_within_the_bound(text):
    parameter = text_parameter(text)

    assert len(parameter.encode()) <= LARGEST_BYTES
    assert len(parameter.splitlines()) <= 1
    assert text_parameter(parameter) == parameter


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        pytest.param("roc_auc 0.61 (bound 0.65) missed", "roc_auc 0.61 (bound 0.65) missed", id="as it is"),
        pytest.param("line\n  after line\t", "line after line", id="lines"),
        pytest.param("file\udcff", "file?", id="bytes of no text, as in a file's name"),
        pytest.param("x" * 5000, "x" * (LARGEST_BYTES - 10) + " … (cut)", id="cut"),
        pytest.param("é" * 4000, "é" * ((LARGEST_BYTES - 10) // 2) + " … (cut)", id="cut between letters"),
    ],
)
def test_text_is_kept_or_cut(text, parameter):
    assert text_parameter(text) == parameter


def test_list_within_the_bound_is_kept():
    names = [f"candidate-{number}/int8-dynamic" for number in range(100)]

    assert list_parameter("variants", names) == names
    assert len(json.dumps(names)) < LARGEST_BYTES


def test_list_beyond_the_bound_is_refused():
    with pytest.raises(
        PipelineError, match=r"variants to build: 500 of them are \d+ bytes of JSON, more than 4096; have fewer"
    ):
        list_parameter("variants to build", ["candidate/variant"] * 500)
