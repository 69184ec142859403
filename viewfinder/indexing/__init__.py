"""One object's way from the listing to its point. Knows nothing of Ray."""
