"""The model and collection that a replica answers from."""
