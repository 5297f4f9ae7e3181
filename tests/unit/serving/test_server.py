"""What keeps a server from starting is one line that says what to do."""

import tempfile
from pathlib import Path

import pytest

from tests.ports import free_port
from tidegate.errors import ServingError
from tidegate.serving.server import serve
from tidegate.serving.settings import ServeSettings


def test_a_machine_without_a_writable_place_is_told_how_to_name_one(
    tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(ServingError, match="set TMPDIR to a place that is writable"):
        serve(ServeSettings(str(tiny_package), http_port=free_port(), grpc_port=0))
