"""The Open Inference Protocol v2 and v1 as bytes: tensors, requests, answers and refusals."""
