"""The model repository extension: loads another version of the model while this one serves, and unloads it. Off by default."""
