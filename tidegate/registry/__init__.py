"""The model registry: immutable numbered versions of model packages, aliases that move atomically, and an audit trail."""
