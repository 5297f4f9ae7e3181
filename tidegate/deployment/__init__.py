"""InferenceServices: building their documents, and the targets that run them."""
