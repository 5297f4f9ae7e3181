"""The `tidegate` command, one file a command group."""
