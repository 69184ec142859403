"""Image files: decoding in a process of its own, thumbnails."""
