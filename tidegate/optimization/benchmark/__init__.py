"""The benchmark: every surviving variant in a process of its own, timed in turns, so that noise meets all of them alike."""
