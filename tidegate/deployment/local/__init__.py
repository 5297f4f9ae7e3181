"""The local target: one supervisor process that runs InferenceServices as model servers behind an Envoy on this machine."""
