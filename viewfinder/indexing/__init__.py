"""From a listed object to its point in the store: rows, stages, write, run, report, prune. Does not import Ray."""
