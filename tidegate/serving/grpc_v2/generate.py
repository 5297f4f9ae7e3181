"""Writes `descriptors.py` from the `.proto` files: `python -m tidegate.serving.grpc_v2.generate` (needs grpcio-tools)."""

import base64
import tempfile
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
PROTOS = ("inference.proto", "health.proto")
_MODULE = '''"""The compiled `.proto` files of this folder. Generated: run `python -m tidegate.serving.grpc_v2.generate`."""

import base64

FILE_DESCRIPTOR_SET = base64.b64decode(
    """
{encoded}
    """
)
'''


def generated_module() -> str:
    """Return the source of `descriptors.py`."""
    from grpc_tools import protoc  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "set"
        arguments = ["protoc", f"--proto_path={HERE}", f"--descriptor_set_out={compiled}", *PROTOS]
        if protoc.main(arguments) != 0:
            raise SystemExit("protoc failed")
        encoded = base64.b64encode(compiled.read_bytes()).decode()
    return _MODULE.format(encoded="\n".join(textwrap.wrap(encoded, 120)))


if __name__ == "__main__":
    (HERE / "descriptors.py").write_text(generated_module())
