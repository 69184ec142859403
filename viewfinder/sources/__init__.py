"""Sources of objects: URIs, S3, local files, listings, manifests, captions files."""
