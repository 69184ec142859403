"""The `viewfinder` command."""
