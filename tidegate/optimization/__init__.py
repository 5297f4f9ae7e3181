"""Variants of a model and the gates they must pass: parity, accuracy, one interleaved benchmark, selection."""
