"""Entry points of Ray jobs: index, reindex, evaluate."""
