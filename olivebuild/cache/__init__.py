"""The content-addressed store: blobs, manifests, traces, sweeps. Knows digests, not recipes."""
