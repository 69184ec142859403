"""Where objects come from: URIs, S3, local files, listings, manifests, captions files."""
