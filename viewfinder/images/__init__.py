"""Image files: decoding in a child process, thumbnails."""
