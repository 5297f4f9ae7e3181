"""What a search has done so far, kept beside its output: one that was interrupted, however, goes on from there.

    OUT/.search/lock
    OUT/.search/builds/int8-dynamic-3f6c1d…/outcome.json, package/
    OUT/.search/judgements/int8-dynamic-b90a44….json, ….npy

Everything is found by a digest of all it depends on: the baseline package, the variant's parameters, the rows, the gates, the
limits, and the versions of Tidegate and ONNX Runtime. So another question never gets an old answer, and keeps what both share.

The benchmark is not kept but begun anew: its rounds are compared with each other, and what lies between two halves of it (a
load, another clock speed, even another machine) is just what interleaving is there to cancel.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime

from tidegate.errors import OptimizationError, PackageError
from tidegate.optimization.records import PACKAGE_FOLDER, BuildOutcome, write_record
from tidegate.optimization.search.build import read_outcome
from tidegate.optimization.search.judgement import Judgement
from tidegate.packaging.format.package import verify_package

STATE_FOLDER = ".search"
_KEY_DIGITS = 16


class SearchState:
    """The folder that an interrupted search left, or an empty one."""

    def __init__(self, folder: Path) -> None:
        """Keep things in `folder`, which need not exist."""
        self.folder = folder

    def build_folder(self, name: str, key: str) -> Path:
        """Return where the variant `name` is built."""
        return self.folder / "builds" / _entry(name, key)

    def outcome(self, name: str, key: str) -> BuildOutcome | None:
        """Return how a variant's build ended before; None if it has not, or what it left is damaged, as by a power failure."""
        folder = self.build_folder(name, key)
        try:
            outcome = read_outcome(folder)
            if outcome.built:
                verify_package(folder / PACKAGE_FOLDER)
        except (OSError, msgspec.DecodeError, PackageError):
            return None
        return outcome

    def judgement(self, name: str, key: str) -> Judgement | None:
        """Return what was found of a variant before; None if nothing was, or it is damaged."""
        file = self._judgement_file(name, key)
        try:
            found = msgspec.json.decode(file.read_bytes(), type=Judgement)
            return found.with_scores(np.load(file.with_suffix(".npy"), allow_pickle=False)) if found.scored else found
        except (OSError, EOFError, ValueError):
            return None

    def keep_judgement(self, judgement: Judgement, key: str) -> None:
        """Write down what was found of a variant; the JSON last, which makes it valid."""
        file = self._judgement_file(judgement.name, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        if judgement.scores is not None:
            np.save(file.with_suffix(".npy"), judgement.scores, allow_pickle=False)
        write_record(file, msgspec.structs.replace(judgement, scores=None))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other searches out, and remove everything once the search is over; an interrupted one leaves it.

        Raises:
            OptimizationError: Another search is using it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                reason = "another search is writing there; wait for it, or give another --out"
                raise OptimizationError(f"{self.folder.parent}: {reason}") from None
            yield
            shutil.rmtree(self.folder, ignore_errors=True)

    def _judgement_file(self, name: str, key: str) -> Path:
        return self.folder / "judgements" / f"{_entry(name, key)}.json"


def key_of(*parts: Any) -> str:
    """Return a digest of everything that a result depends on: JSON-able parts, and the versions of what computes it."""
    versions = (version("tidegate"), onnxruntime.__version__)
    return hashlib.sha256(msgspec.json.encode((versions, parts), order="sorted")).hexdigest()[:_KEY_DIGITS]


def _entry(name: str, key: str) -> str:
    return f"{name.replace('/', '-')}-{key}"
