"""Writes model packages as repositories of NVIDIA's Triton."""
