"""The cluster target: InferenceServices on KServe, in Standard and in Knative deployment mode."""
