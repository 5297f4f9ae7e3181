"""Kubeflow Pipelines components, one a file: each declares typed inputs and outputs and calls one tidegate function."""
