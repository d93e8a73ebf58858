"""The content-addressed store of blobs, manifests and traces, which knows digests, not recipes."""
