"""The model server: Open Inference Protocol in front of ONNX Runtime, with validation, lookups, log and metrics."""
