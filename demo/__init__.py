"""The demo: a painted world of 10 places and 143 things, and the small CLIP models that know it."""
