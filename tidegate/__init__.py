"""Tidegate takes trained models to guarded, fast, self-renewing production endpoints on Kubeflow."""

__version__ = "0.1.0"
