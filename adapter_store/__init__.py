"""The adapter store: catalog, manifests, content-addressed blobs, sources."""
