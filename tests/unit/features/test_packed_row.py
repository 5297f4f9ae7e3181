import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import FeatureError
from tidegate.features.packed_row import key_order, pack_key, pack_row, unpack_row, view_prefix

key_values = st.lists(st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1)), max_size=3).map(tuple)
names = st.text(max_size=40)


@given(
    st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(), st.floats()))
)
def test_row_survives_packing(features):
    unpacked = unpack_row(pack_row(features))

    assert list(unpacked) == list(features)
    for name, value in features.items():
        found = unpacked[name]
        assert type(found) is type(value)
        assert found == value or (isinstance(value, float) and math.isnan(value) and math.isnan(found))


@given(names, names, key_values, names, names, key_values)
def test_different_entities_have_different_keys(project, view, values, other_project, other_view, other_values):
    key = pack_key(view_prefix(project, view), values)
    other = pack_key(view_prefix(other_project, other_view), other_values)

    assert (key == other) == ((project, view, values) == (other_project, other_view, other_values))


@given(names, names, names, names, key_values)
def test_a_view_prefix_begins_only_keys_of_that_view(project, view, other_project, other_view, values):
    prefix = view_prefix(project, view)

    assert pack_key(view_prefix(other_project, other_view), values).startswith(prefix) == (
        (project, view) == (other_project, other_view)
    )


def test_integer_and_string_keys_differ():
    prefix = view_prefix("shop", "visits")

    assert pack_key(prefix, (1,)) != pack_key(prefix, ("1",))


@pytest.mark.parametrize(
    "values",
    [pytest.param((object(),), id="object"), pytest.param((2**64,), id="beyond-64-bit"), pytest.param((1 + 2j,), id="complex")],
)
def test_other_key_types_are_refused(values):
    with pytest.raises(FeatureError, match=r"^entity key .* must be a string or a 64-bit integer$"):
        pack_key(b"", values)


def test_key_order_does_not_depend_on_the_declaration():
    assert key_order(["shop", "customer"]) == key_order(["customer", "shop"]) == ("customer", "shop")
