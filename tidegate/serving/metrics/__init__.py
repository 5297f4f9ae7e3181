"""The model server's metrics: what is counted, where, and how it is shown."""
