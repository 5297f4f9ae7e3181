"""Run the supervisor of the workspace in argv[1] with stand-in model servers."""

import sys
from pathlib import Path

from tidegate.deployment.local.model_server import ServerSpec
from tidegate.deployment.local.supervisor import run_supervisor
from tidegate.errors import TidegateError


def stand_in(spec: ServerSpec) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("stand_in_server.py")), spec.storage_uri]


try:
    run_supervisor(Path(sys.argv[1]), server_command=stand_in)
except TidegateError as error:
    sys.exit(f"error: {error}")
