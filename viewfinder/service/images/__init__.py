"""Images in requests and answers."""
