"""A model server stays light: what it must never import."""

import subprocess
import sys

FORBIDDEN = ["training", "optimization", "monitoring", "features.repository", "project", "registry"]
HEAVY = [
    "feast",
    "kfp",
    "evidently",
    "sklearn",
    "pandas",
    "duckdb",
    "pydantic",
    "boto3",
    "matplotlib",
    "onnx",
    "grpc",
    "opentelemetry",
]


def test_serving_imports_nothing_it_does_not_need() -> None:
    script = (
        "import sys, tidegate.serving.worker, tidegate.serving.server, tidegate.serving.grpc_v2.listener\nprint(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    imported = set(result.stdout.split())
    unwanted = {f"tidegate.{room}" for room in FORBIDDEN} | set(HEAVY)
    assert not imported & unwanted
