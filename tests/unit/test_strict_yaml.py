from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.strict_yaml import read_strict_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("y", "y"), ("true", True), ("False", False),
        ("1e-3", 0.001), ("1.5", 1.5), (".5", 0.5), ("-2", -2), ("+2", 2), ("010", 10), ("1_000", "1_000"), ("12:30", "12:30"),
        ("0x1f", "0x1f"), ("2013-04-01", "2013-04-01"), ("null", None), ("~", None), ("", None), ("'1'", "1"),
        ("1.2.3", "1.2.3"), ("-.inf", float("-inf")), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars(text: str, value: object) -> None:
    read = read_strict_yaml(f"field: {text}".encode())["field"]

    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("a: 1\nb:\n  c: 1\n  c: 2", "'c' is given twice, again in line 4", id="key twice"),
        pytest.param("a: &x 1\nb: *x", "alias *x in line 2: not allowed", id="alias"),
        pytest.param("a: &x [*x]", "alias *x in line 1: not allowed", id="cycle"),
        pytest.param("a: [", "line 1, column 5", id="open list"),
        pytest.param("a: 1\n b: 2", "line 2", id="indent"),
        pytest.param("a\tb: {", "line 1", id="open map"),
        pytest.param("? [a]\n: 1", "unhashable key", id="list as a key"),
        pytest.param("!!python/object/apply:os.system ['true']", "could not determine a constructor", id="python object"),
        pytest.param("a: !!timestamp x", "does not fit its tag", id="wrong tag"),
        pytest.param("a: !!int x", "invalid literal", id="wrong int"),
        pytest.param("a: 1\n---\nb: 1", "expected a single document", id="two documents"),
        pytest.param("[" * 3000, "nested too deeply", id="deep"),
        pytest.param("a: \x00", "special characters are not allowed", id="nul"),
    ],
)
def test_what_is_not_strict_yaml(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        read_strict_yaml(text.encode())

    assert says in str(caught.value)


@given(st.binary(max_size=60) | st.text(alphabet="ab:-[]{}!&*?|>'\"#%@,\n 01.~<e", max_size=60).map(str.encode))
def test_whatever_is_read_is_plain_data_or_a_value_error(raw: bytes) -> None:
    try:
        read = read_strict_yaml(raw)
    except ValueError as error:
        one_line = str(error)
    else:
        one_line = ""
        _assert_plain(read)
    assert "\n" not in one_line


def _assert_plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, entry in value.items():
            _assert_plain(key)
            _assert_plain(entry)
    elif isinstance(value, list | tuple | set):
        for entry in value:
            _assert_plain(entry)
    else:
        assert value is None or isinstance(value, bool | int | float | str | bytes) or value.__class__.__module__ == "datetime"
