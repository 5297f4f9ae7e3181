"""What the doctor sees of a machine, and of machines that lack something."""

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest

from tidegate.doctor import machine
from tidegate.doctor.finding import Finding
from tidegate.doctor.machine import examine_machine


def found(subject: str) -> Finding:
    return next(finding for finding in examine_machine() if finding.subject == subject)


def test_nothing_is_missing_here() -> None:
    findings = list(examine_machine())

    assert [finding for finding in findings if finding.state != "ok"] == []
    assert f"kserve {importlib.metadata.version('kserve')}" in found("extra cluster").found


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    def remove(module: str) -> None:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))

    return remove


def test_a_package_that_is_not_there_names_its_extra(without) -> None:
    without("evidently")

    finding = found("extra monitoring")

    assert (finding.state, finding.found) == ("optional", "no evidently")
    assert finding.fix == "pip install 'tidegate[monitoring]'"


def test_onnxruntime_is_needed(without) -> None:
    without("onnxruntime")

    assert found("ONNX Runtime").state == "missing"


def test_two_onnxruntimes_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_version", lambda distribution: "1.31.1")

    finding = found("ONNX Runtime")

    assert finding.state == "missing"
    assert "exclude each other" in finding.found


def test_without_envoy(without, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without("envoy")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert found("Envoy").state == "missing"


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.sys, "version_info", (3, 10, 9))

    assert found("Python").fix == "use Python 3.11 or newer"
