"""viewfinder: describe what you are looking for, get the images. Importing this loads neither torch nor ray."""

__version__ = "0.1.0"
