"""What holds for every test."""

import os

# Ray gives local clusters a token by default and keeps it in the home directory; tests must leave nothing there.
# Set before anything imports ray.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
