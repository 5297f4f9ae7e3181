"""Runs model packages: sessions of ONNX Runtime on CPUs and GPUs, fed as their graphs want it."""
