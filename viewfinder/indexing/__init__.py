"""One object's way from the listing to its point: rows, stages, write, run, report, prune. Imports no Ray."""
