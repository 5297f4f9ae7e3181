"""Tidegate takes trained models to guarded, fast, self-renewing production endpoints on Kubeflow."""

import os

__version__ = "0.1.0"

# From 1.31 on, ONNX Runtime's builds report processes and models to Microsoft, from a thread of their own and a database in the
# user's cache, unless this is set when they are imported. Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
