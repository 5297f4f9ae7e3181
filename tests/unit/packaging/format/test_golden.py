import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tidegate.errors import PackageError
from tidegate.packaging.format.golden import MOST_BYTES, Golden, check_golden, golden_bytes, read_golden

SAMPLE = Golden({"x": np.arange(6, dtype=np.float32).reshape(6, 1)}, {"probability": np.zeros(6, np.float32)})


def npy(shape: str = "(6, 1)", descr: str = "'<f4'", payload: bytes = bytes(24), version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (64 - (10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + payload


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("input:x.npy", npy())
        with pytest.warns(UserWarning, match="Duplicate name"):
            made.writestr("input:x.npy", npy())
    return buffer.getvalue()


def claiming(size: int) -> bytes:
    """An archive whose table of contents says that its only array has so many bytes."""
    raw = bytearray(archive({"input:x.npy": npy()}))
    at = raw.index(b"PK\x01\x02") + 24
    raw[at : at + 4] = struct.pack("<I", size)
    return bytes(raw)


def with_directory_of(size: int) -> bytes:
    raw = bytearray(archive({"input:x.npy": npy()}))
    raw[-10:-6] = struct.pack("<I", size)
    return bytes(raw)


@pytest.mark.parametrize("read", [read_golden, check_golden], ids=["read", "check"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda: b"", "no archive", id="empty"),
        pytest.param(lambda: b"PK not really", "no archive", id="no archive"),
        pytest.param(lambda: golden_bytes(SAMPLE)[:-30], "no archive", id="cut off"),
        pytest.param(lambda: golden_bytes(SAMPLE) + b"comment", "no archive", id="something behind it"),
        pytest.param(lambda: with_directory_of(1 << 30), "table of contents has 1073741824 bytes", id="an endless table"),
        pytest.param(lambda: claiming(0xFFFFFFF0), f"4294967280 bytes, at most {MOST_BYTES}", id="a claim of 4 GB"),
        pytest.param(lambda: claiming(1 << 30), "its shape", id="a bomb of 1 GB"),
        pytest.param(lambda: archive({"input:x.npy": npy("(10000000000000,)")}), "holds 24 bytes, its shape", id="10 TB"),
        pytest.param(lambda: archive({"input:x.npy": npy("(-2, -3)")}), "which no tensor is", id="negative"),
        pytest.param(lambda: archive({"input:x.npy": npy("(6, 1)", "'|O'")}), "which no tensor is", id="a pickle"),
        pytest.param(lambda: archive({"input:x.npy": npy("(6,)", "[('a', '<f4')]")}), "which no tensor is", id="records"),
        pytest.param(lambda: archive({"input:x.npy": npy(version=b"\x03\x00")}), "version", id="another version"),
        pytest.param(lambda: archive({"input:x.npy": npy("('a' * 10)")}), "not readable", id="a shape that is none"),
        pytest.param(lambda: archive({"input:x.npy": npy("(" * 500 + ")" * 500)}), "not readable", id="a nested shape"),
        pytest.param(lambda: archive({"input:x.npy": b"text"}), "not readable", id="no array"),
        pytest.param(
            lambda: archive({"evil.npy": npy()}), "'evil.npy' is no array of a golden sample", id="neither in nor out"
        ),
        pytest.param(lambda: archive({"input:x.pkl": npy()}), "no array of a golden sample", id="another kind of file"),
        pytest.param(lambda: archive({"input:x.npy": npy()}, zipfile.ZIP_LZMA), "NumPy does not use", id="packed otherwise"),
        pytest.param(twice, "twice", id="an array twice"),
    ],
)
def test_what_is_no_golden_sample_is_refused(
    tmp_path: Path, read: Callable[[Path], object], make: Callable[[], bytes], says: str
) -> None:
    (tmp_path / "golden.npz").write_bytes(make())

    with pytest.raises(PackageError, match=r"golden\.npz: not readable: .*; package again$") as refused:
        read(tmp_path / "golden.npz")
    assert says in str(refused.value)


def test_a_missing_golden_sample_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"golden\.npz is missing"):
        read_golden(tmp_path / "golden.npz")


@given(
    numbers=arrays.arrays(
        st.sampled_from([np.float32, np.float16, np.float64, np.int64, np.int8, np.uint8, np.bool_]),
        arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    ),
    texts=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=5),
    columns_first=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, numbers: np.ndarray, texts: list[str], columns_first: bool
) -> None:
    numbers = np.asfortranarray(numbers) if columns_first else numbers
    column = np.array(texts, dtype=object).reshape(-1, 1)
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    path.write_bytes(golden_bytes(Golden({"é": numbers, "text": column}, {"out": numbers})))

    check_golden(path)
    read = read_golden(path)

    assert list(read.inputs) == ["é", "text"]
    np.testing.assert_array_equal(read.inputs["é"], numbers)
    np.testing.assert_array_equal(read.outputs["out"], numbers)
    assert read.inputs["é"].dtype == numbers.dtype
    assert read.inputs["text"].dtype == object
    assert read.inputs["text"].tolist() == column.tolist()
    read.inputs["é"][...] = 0  # what was read may be changed


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_a_garbled_golden_sample_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(golden_bytes(SAMPLE))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    path.write_bytes(raw)

    problem = ""
    try:
        read = read_golden(path)
        assert all(array.nbytes < MOST_BYTES for array in (read.inputs | read.outputs).values())
    except PackageError as error:
        problem = str(error)
    assert "\n" not in problem
