"""A directory is written whole or not at all, and what was begun beside it never stays."""

from contextlib import suppress
from pathlib import Path

import pytest

from tidegate.storage.folders import fresh_folder_beside, put_in_place


def test_a_directory_takes_the_place_of_an_earlier_one_whole(tmp_path: Path) -> None:
    to = tmp_path / "out"
    to.mkdir()
    (to / "earlier").write_text("gone")

    with fresh_folder_beside(to) as fresh:
        (fresh / "inner").mkdir()
        (fresh / "inner/file").write_text("new")
        put_in_place(fresh, to)

    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {"out", "out/inner", "out/inner/file"}


def test_others_may_read_it(tmp_path: Path) -> None:
    with fresh_folder_beside(tmp_path / "new/out") as fresh:
        put_in_place(fresh, tmp_path / "new/out")

    assert (tmp_path / "new/out").stat().st_mode & 0o777 == 0o755


def test_what_fails_on_the_way_leaves_the_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    to = tmp_path / "out"
    to.mkdir()
    (to / "earlier").write_text("kept")

    with suppress(KeyboardInterrupt), fresh_folder_beside(to) as fresh:
        (fresh / "file").write_text("half")
        raise KeyboardInterrupt

    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (to / "earlier").read_text() == "kept"


def test_an_earlier_one_that_cannot_be_removed_from_its_place_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = tmp_path / "out"
    to.mkdir()
    (to / "earlier").write_text("kept")
    really_rename = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path == to:
            raise PermissionError("not yours")
        return really_rename(path, target)

    monkeypatch.setattr(Path, "rename", rename)

    with fresh_folder_beside(to) as fresh, pytest.raises(PermissionError):
        put_in_place(fresh, to)

    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (to / "earlier").read_text() == "kept"


def test_a_file_where_its_folder_should_be_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(NotADirectoryError, match="Not a directory"), fresh_folder_beside(tmp_path / "file/out"):
        pass
