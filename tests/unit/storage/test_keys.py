import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import StorageError
from tidegate.storage.keys import check_key, check_prefix, is_key


@given(st.text(max_size=40))
def test_check_and_is_agree_and_nothing_leads_out(key: str) -> None:
    if is_key(key):
        check_key(key)
        assert not {"", ".", ".."} & set(key.split("/"))
    else:
        with pytest.raises(StorageError, match=r"^store: key .*$"):
            check_key(key)


@given(st.lists(st.text("ab.-=é", min_size=1, max_size=5), min_size=1, max_size=4))
def test_every_beginning_of_a_key_that_ends_a_part_is_a_prefix(parts: list[str]) -> None:
    key = "/".join(parts)
    if not is_key(key):
        return
    for end in range(1, len(parts) + 1):
        check_prefix("/".join(parts[:end]))
        check_prefix("/".join(parts[:end]) + "/")


@pytest.mark.parametrize("prefix", ["..", "a/..", "a//", "/", ".store/"])
def test_prefixes_without_keys_are_refused(prefix: str) -> None:
    with pytest.raises(StorageError, match="no key can start with"):
        check_prefix(prefix)
