"""The locked requirement sets: hashed, without any index, the same versions everywhere, and small where it counts."""

import re
from pathlib import Path

import pytest

from pipelines.launcher import REPOSITORY

FOLDER = REPOSITORY / "requirements"
LOCKED = (
    *("bootstrap", "build", "core", "server", "server-gpu", "steps", "steps-gpu", "test"),
    *("frameworks", "torch-cpu", "torch-cuda"),  # what models are packaged from; no image has them
)
# What only training, pipelines and people need.
NOT_SERVED = {
    "feast",
    "kfp",
    "kserve",
    "kubernetes",
    "scikit-learn",
    "pandas",
    "evidently",
    "duckdb",
    "onnx",
    "jinja2",
    "pytest",
}
RUNTIMES = {"server": "onnxruntime", "steps": "onnxruntime", "server-gpu": "onnxruntime-gpu", "steps-gpu": "onnxruntime-gpu"}


def pins(name: str) -> dict[str, set[str]]:
    """Return a locked set's packages with their versions; there may be one for each version of Python."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[[a-z,]+\])?==([^ ;\\]+)", text(name), re.MULTILINE):
        found.setdefault(package, set()).add(version)
    return found


def text(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", LOCKED)
def test_every_package_is_pinned_and_hashed(name):
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", text(name), flags=re.MULTILINE).strip())

    assert len(entries) >= len(pins(name)) > 0
    for entry in entries:
        assert re.match(r"[a-z0-9][^ ]*==", entry), entry
        assert "--hash=sha256:" in entry, entry


@pytest.mark.parametrize("file", sorted(FOLDER.iterdir()), ids=lambda file: file.name)
def test_no_file_names_an_index(file: Path):
    assert not re.search(r"https?://|--index-url|--extra-index-url|--find-links|(^|\s)-[if] ", file.read_text())


def test_every_set_that_is_locked_is_the_only_text_there():
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(LOCKED)


@pytest.mark.parametrize(("name", "runtime"), RUNTIMES.items())
def test_one_onnx_runtime_is_installed(name, runtime):
    assert {package for package in pins(name) if package.startswith("onnxruntime")} == {runtime}


@pytest.mark.parametrize("name", ["server", "server-gpu"])
def test_server_holds_nothing_that_only_training_needs(name):
    assert not NOT_SERVED & pins(name).keys()
    assert len(pins(name)) < 50  # twelve of them are OpenTelemetry's and its exporter's


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [("server", "steps"), ("server-gpu", "steps-gpu"), ("steps", "core"), ("core", "test"), ("core", "frameworks")],
)
def test_what_is_tested_is_what_is_deployed(smaller, larger):
    """Each set is a part of the next, version by version; the steps' is tested as a part of `core`."""
    inner, outer = pins(smaller), pins(larger)

    assert not {package: versions for package, versions in inner.items() if outer.get(package) != versions}


def test_frameworks_are_tested_beside_what_is_deployed():
    """The frameworks come on top of the tests' set, and PyTorch without what it needs: all of them have to agree."""
    assert not {"torch", "onnxruntime-gpu"} & pins("frameworks").keys()
    assert {version.partition("+")[0] for name in ("torch-cpu", "torch-cuda") for version in pins(name)["torch"]} == {"2.13.0"}
    for package, versions in pins("frameworks").items():
        assert pins("test").get(package, versions) == versions, package


def test_gpu_sets_differ_by_the_runtime_alone():
    for name in ("server", "steps"):
        cpu, gpu = pins(name), pins(f"{name}-gpu")
        assert {package for package in cpu | gpu if cpu.get(package) != gpu.get(package)} == {"onnxruntime", "onnxruntime-gpu"}
