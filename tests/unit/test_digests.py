"""Digests are sha256sum's, of bytes and of files alike."""

from pathlib import Path

from tidegate.digests import bytes_digest, file_digest, file_sha256

_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def test_a_file_and_its_bytes_have_one_digest(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")

    assert bytes_digest(b"abc") == file_digest(file) == f"sha256:{_OF_ABC}"
    assert file_sha256(file) == _OF_ABC
