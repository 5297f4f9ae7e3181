"""What every manifest must fulfil beyond its types; a package that breaks a rule is neither written nor read."""

import re
from collections import Counter
from collections.abc import Iterable

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import (
    BILL_NAME,
    CARD_NAME,
    ENGINE_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    REFERENCE_NAME,
    SCORE_OUTPUTS,
    SIGNATURE_NAME,
    InputPolicy,
    Manifest,
)
from tidegate.packaging.format.policy_rules import policy_problem

REQUIRED_FILES = frozenset({MODEL_NAME, GOLDEN_NAME, REFERENCE_NAME})
LARGEST_MANIFEST = 16 << 20
LARGEST_SIGNATURE = 1 << 20
_MOST_FILES = 64
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_LARGEST_GRAPH = 2 << 30  # a protobuf message cannot be larger, and a graph is one message
_LARGEST_FILES = {
    GOLDEN_NAME: 512 << 20,
    REFERENCE_NAME: 1 << 30,
    CARD_NAME: 16 << 20,
    BILL_NAME: 16 << 20,
}


def check_manifest(manifest: Manifest, where: str) -> None:
    """Raise PackageError, naming the field, if the manifest found at `where` breaks a rule of docs/model-packages.md."""
    for field, problem in (*_file_problems(manifest), *_tensor_problems(manifest), *_task_problems(manifest)):
        raise PackageError(f"{where}: {field}: {problem}; package again")


def is_file_name(name: str) -> bool:
    """Return whether a file of a package can have this name."""
    return _FILE_NAME.fullmatch(name) is not None and name not in (MANIFEST_NAME, SIGNATURE_NAME)


_Problems = Iterable[tuple[str, str]]


def _file_problems(manifest: Manifest) -> _Problems:
    if len(manifest.files) > _MOST_FILES:
        yield "files", f"{len(manifest.files)} files are listed, at most {_MOST_FILES} are allowed"
    for name, entry in manifest.files.items():
        if not is_file_name(name):
            yield "files", f"{name[:120]!r} is not a plain file name"
        largest = _LARGEST_FILES.get(name, _LARGEST_GRAPH)
        if entry.size > largest:
            yield "files", f"{name} is said to have {entry.size} bytes, at most {largest} are allowed"
    for name in _repeated(name.lower() for name in (MANIFEST_NAME, SIGNATURE_NAME, *manifest.files)):
        yield "files", f"{name!r} is listed in upper and lower case, which some file systems hold for one name"
    for name in sorted(REQUIRED_FILES - manifest.files.keys()):
        yield "files", f"{name} is not listed"
    if manifest.runtime.engine and ENGINE_NAME not in manifest.files:
        yield "runtime.engine", f"{ENGINE_NAME} is not among the files"


def _tensor_problems(manifest: Manifest) -> _Problems:
    for field, specs in (("inputs", manifest.signature.inputs), ("outputs", manifest.signature.outputs)):
        if not specs:
            yield f"signature.{field}", "there is none"
        for name in _repeated(spec.name for spec in specs):
            yield f"signature.{field}", f"{name!r} is there twice"
    for spec in manifest.signature.inputs:
        if problem := policy_problem(spec):
            yield "signature.inputs", f"policy: {spec.name!r} {problem}"
    for spec in manifest.signature.outputs:
        if spec.policy != InputPolicy():
            yield "signature.outputs", f"policy: {spec.name!r} is an output, which has none"
    inputs = {spec.name for spec in manifest.signature.inputs}
    packed = [column for group in manifest.packing for column in group.columns]
    for column in packed:
        if column not in inputs:
            yield "packing", f"{column!r} is no input of the signature"
    for column in _repeated(packed):
        yield "packing", f"{column!r} is packed twice"


def _task_problems(manifest: Manifest) -> _Problems:
    score = SCORE_OUTPUTS.get(manifest.task)
    if score and score not in [spec.name for spec in manifest.signature.outputs]:
        yield "signature.outputs", f"a {manifest.task} answers {score!r}, which is not among them"
    classes, threshold = len(manifest.classes), manifest.threshold
    if manifest.task == "binary-classification":
        if classes != 2:
            yield "classes", f"there are {classes}, a binary-classification has 2"
        if threshold is None or not 0 <= threshold <= 1:
            yield "threshold", f"it is {threshold}, a binary-classification needs a probability"
    elif threshold is not None:
        yield "threshold", f"a {manifest.task} has none"
    if manifest.task == "multiclass-classification" and classes < 2:
        yield "classes", f"there are {classes}, a multiclass-classification has 2 or more"
    for name in _repeated(manifest.classes):
        yield "classes", f"{name!r} is there twice"


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
