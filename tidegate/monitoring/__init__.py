"""Monitoring: windows of the inference log, Evidently reports, the drift policy, and the retrain trigger."""
