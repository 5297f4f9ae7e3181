"""Optimization: variants of a model, the gates they must pass, and the selection among the survivors."""
