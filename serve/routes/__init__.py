"""The routes of the HTTP interface, a module each for what they are about."""
