"""Everything that runs on Ray Data."""
