"""The demo: a painted world of 10 places and about 120 things, and the small CLIP models that know it."""
