"""Who is timed: the framework itself, ONNX Runtime as it comes, Olive's pick, and model packages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.optimization.cases import CASES
from benchmarks.optimization.cases.case import Feeds

Ready = Callable[[Feeds], Callable[[], object]]


class Contestant(Protocol):
    """Something that answers rows; it is sent to the process that it is timed in, and opened there."""

    def open(self) -> Ready:
        """Load it, and return how to make a call ready for some rows."""


@dataclass(frozen=True, slots=True)
class Framework:
    """A case's model in its own framework, with that framework's own threads."""

    case: str
    folder: Path

    def open(self) -> Ready:
        """Load the model."""
        return CASES[self.case].own(self.folder)


@dataclass(frozen=True, slots=True)
class Graph:
    """An ONNX graph in a session of ONNX Runtime; without options as `InferenceSession(graph)` makes it, a thread a core."""

    file: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Ready:
        """Open the session."""
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        for name, value in self.options.items():
            setattr(settings, name, value)
        session = ort.InferenceSession(str(self.file), settings, providers=["CPUExecutionProvider"])
        return lambda feeds: lambda: session.run(None, feeds)


@dataclass(frozen=True, slots=True)
class Package:
    """A model package, opened as a server opens it; a call takes the signature's inputs, packing included."""

    path: Path

    def open(self) -> Ready:
        """Open the package."""
        from tidegate.packaging.running.session import GraphSession

        graph = GraphSession.of_package(self.path, spinning=False)
        return lambda feeds: lambda: graph.run(feeds)


def olive_options(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return the session options that Olive found, as attributes of ONNX Runtime's; what it left open stays ONNX Runtime's."""
    import onnxruntime as ort

    found = {name: value for name, value in (session.get("session_options") or {}).items() if value is not None}
    if "execution_mode" in found:
        found["execution_mode"] = ort.ExecutionMode(found["execution_mode"])
    if "graph_optimization_level" in found:
        found["graph_optimization_level"] = ort.GraphOptimizationLevel(found["graph_optimization_level"])
    return {name: value for name, value in found.items() if hasattr(ort.SessionOptions(), name)}
