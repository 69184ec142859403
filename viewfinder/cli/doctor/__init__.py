"""`viewfinder doctor`: checks of this machine."""
