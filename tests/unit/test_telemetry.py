"""Nothing that Tidegate runs reports to anybody unasked."""

import os
import subprocess
import sys
from pathlib import Path

from onnxruntime.capi import onnxruntime_pybind11_state

PROGRAM = "import tidegate, onnxruntime; onnxruntime.get_available_providers()"


def test_onnx_runtime_leaves_no_trace_of_its_telemetry(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_", "CI"))}
    environment = kept | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=60)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_variable_is_one_that_onnx_runtime_reads() -> None:
    library = Path(onnxruntime_pybind11_state.__file__).read_bytes()
    if b"events.data.microsoft.com" in library:
        assert b"ORT_DISABLE_TELEMETRY\0" in library
