"""Other machines of a build: remote caches, and sites that make nodes."""
