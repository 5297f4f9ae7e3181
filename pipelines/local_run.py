"""Runs one pipeline through kfp.local in this process, for `LocalLauncher`: `python -m pipelines.local_run NAME ARGS ROOT`."""

import json
import sys

from kfp import local

from pipelines.catalog import PIPELINES


def main() -> None:
    """Run the pipeline that the command line names."""
    name, arguments, root = sys.argv[1:]
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True)
    PIPELINES[name](**json.loads(arguments))


if __name__ == "__main__":
    main()
