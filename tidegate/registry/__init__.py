"""The model registry: immutable numbered versions, aliases that move atomically, lineage, and an audit trail."""
