"""Workers that die at one step of one variant."""

import os
import signal
from pathlib import Path
from typing import Any

from tidegate.optimization.benchmark.subject import Subject
from tidegate.packaging.format.package import read_manifest


class CrashingBuilder:
    def __init__(self, *given: Any) -> None:
        pass

    def build(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class DyingJudged(Subject):
    def replay(self, golden: Path) -> Any:
        _die_if(self._package, "graph-optimized")
        return super().replay(golden)


class DyingTimed(Subject):
    def turn(self, *given: Any) -> Any:
        _die_if(self._package, "int8-dynamic")
        return super().turn(*given)


def _die_if(package: Path, variant: str) -> None:
    if read_manifest(package).variant.name == variant:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingTrees(Subject):
    def turn(self, *given: Any) -> Any:
        if read_manifest(self._package).variant.candidate == "trees":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().turn(*given)
