"""Reads and rewrites ONNX graphs for the variants: what is in them, half precision, calibration rows, pruning."""
