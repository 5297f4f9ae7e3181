"""Says what is missing before it is missed: on this machine, for a project, and on its cluster."""
