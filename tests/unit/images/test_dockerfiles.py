"""The Dockerfiles, read as a linter reads them: no container engine builds them in these tests."""

import re
import subprocess
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest

import tidegate
from pipelines.launcher import REPOSITORY

FOLDER = REPOSITORY / "images"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
TARGETS = [("cpu", "server"), ("cpu", "steps"), ("gpu", "server"), ("gpu", "steps"), ("project", "")]


@dataclass
class Stage:
    """One stage: what it starts from, and its instructions in order."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def values(self, keyword: str) -> list[str]:
        return [value for found, value in self.instructions if found == keyword]


@dataclass
class Dockerfile:
    """A parsed Dockerfile; variables of `FROM` take their defaults."""

    stages: list[Stage]

    def built(self, target: str) -> list[Stage]:
        """Return the stages that make up the image of a target, its base first."""
        by_name = {stage.name: stage for stage in self.stages}
        stage = by_name[target] if target else self.stages[-1]
        chain = [stage]
        while stage.base in by_name:
            stage = by_name[stage.base]
            chain.insert(0, stage)
        return chain


def read(name: str) -> Dockerfile:
    text = re.sub(r"\\\n", " ", "".join(line for line in lines(name) if not line.lstrip().startswith("#")))
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        keyword, _, value = line.partition(" ")
        if keyword == "FROM":
            base, _, name_of_stage = value.partition(" AS ")
            stages.append(Stage(replaced(base, arguments), name_of_stage))
        elif keyword == "ARG" and not stages:
            variable, _, default = value.partition("=")
            arguments[variable] = replaced(default, arguments)
        else:
            stages[-1].instructions.append((keyword, " ".join(value.split())))
    return Dockerfile(stages)


def lines(name: str) -> list[str]:
    return (FOLDER / f"{name}.Dockerfile").read_text().splitlines(keepends=True)


def replaced(text: str, arguments: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], text)


@pytest.fixture(params=[file.stem for file in FILES])
def dockerfile(request: pytest.FixtureRequest) -> Dockerfile:
    return read(request.param)


def test_every_image_has_its_file():
    assert {file.stem for file in FILES} == {file for file, _ in TARGETS}


def test_base_images_are_pinned_to_a_release(dockerfile):
    own = {stage.name for stage in dockerfile.stages}
    for stage in dockerfile.stages:
        if stage.base not in own:
            assert re.fullmatch(r"[a-z./-]+(:[^:@]*\d+\.\d+\.\d+[^:@]*|@sha256:[0-9a-f]{64})", stage.base), stage.base


@pytest.mark.parametrize(("name", "target"), TARGETS)
def test_image_runs_as_a_user_that_is_not_root(name, target):
    users = [user for stage in read(name).built(target) for user in stage.values("USER")]

    assert users
    assert int(users[-1]) >= 1000


@pytest.mark.parametrize(("name", "target"), TARGETS[:-1])
def test_image_says_what_it_is(name, target):
    labels = " ".join(value for stage in read(name).built(target) for value in stage.values("LABEL"))

    for label in ("title", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels


@pytest.mark.parametrize(("name", "target"), TARGETS[:-1])
def test_image_holds_the_environment_of_its_own_set_and_no_tool_that_built_it(name, target):
    """The installer and the sources stay behind in stages of their own."""
    gpu = "-gpu" if name == "gpu" else ""
    [copied] = [value for stage in read(name).built(target) for value in stage.values("COPY")]
    [environment] = [stage for stage in read(name).stages if stage.name == f"{target}-environment"]

    assert copied == f"--from={target}-environment /opt/tidegate /opt/tidegate"
    assert f"--requirement /requirements/{target}{gpu}.txt" in " ".join(environment.values("RUN"))


def test_every_installation_is_locked(dockerfile):
    for stage in dockerfile.stages:
        for command in re.split(r"&&|;", " ".join(stage.values("RUN"))):
            if "pip install" in command:
                assert "--require-hashes" in command or "--no-deps" in command, command
            if "apt-get install" in command:
                assert "--no-install-recommends" in command, command


def test_tensorrt_is_pinned():
    installed = " ".join(value for stage in read("gpu").stages for value in stage.values("RUN"))

    found = re.findall(r"\b(libnv[a-z]+(?:-[a-z]+)?10)(=?)", installed)
    assert found == [("libnvinfer10", "="), ("libnvinfer-plugin10", "="), ("libnvonnxparsers10", "=")]
    assert re.search(r"^ARG TENSORRT=10\.\d+\.\d+\.\d+-1\+cuda13\.\d+$", "".join(lines("gpu")), re.MULTILINE)


def test_nothing_comes_from_the_network_but_packages(dockerfile):
    for stage in dockerfile.stages:
        assert not stage.values("ADD")
        assert not stage.values("HEALTHCHECK")  # Kubernetes probes a pod by itself
        assert not re.search(r"\b(curl|wget|git clone)\b|https?://", " ".join(stage.values("RUN")))


def test_every_source_that_is_copied_exists_and_is_sent_to_the_builder(dockerfile):
    for stage in dockerfile.stages:
        for value in stage.values("COPY"):
            if value.startswith("--from="):
                continue
            for source in value.split()[:-1]:
                assert (REPOSITORY / source).exists(), source
                assert sent(source), source


@pytest.mark.parametrize("path", [".git/config", ".venv/bin/python", ".tidegate/store/x", "tests/conftest.py", "secrets.env"])
def test_what_no_image_needs_is_not_sent_to_the_builder(path):
    assert not sent(path)


def sent(path: str) -> bool:
    """Apply `.dockerignore`: the last pattern that matches the path or a folder above it decides."""
    decided = True
    prefixes = ["/".join(path.split("/")[: length + 1]) for length in range(path.count("/") + 1)]
    for pattern in filter(None, (REPOSITORY / ".dockerignore").read_text().splitlines()):
        bare = pattern.removeprefix("!").removeprefix("**/")
        if any(fnmatch(prefix, bare) for prefix in prefixes):
            decided = pattern.startswith("!")
    return decided


def test_make_builds_every_target_with_its_version():
    dry = subprocess.run(["make", "--dry-run", "image"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout

    for name, target in TARGETS:
        assert re.search(rf"--file images/{name}\.Dockerfile{f' --target {target}' if target else ''} .*--tag tidegate/", dry)
    assert f"--tag tidegate/server-gpu:{tidegate.__version__}" in dry
    assert f"BASE=tidegate/steps:{tidegate.__version__}" in dry


def test_project_stands_on_the_steps_of_this_version():
    assert read("project").stages[0].base == f"tidegate/steps:{tidegate.__version__}"


def test_files_are_few_and_each_says_what_it_is():
    for file in FILES:
        assert file.read_text().startswith("# ")
        assert Path(file).stat().st_size < 4096
