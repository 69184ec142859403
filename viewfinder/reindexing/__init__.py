"""A change of model: build beside the live collection, verify, promote, roll back."""
