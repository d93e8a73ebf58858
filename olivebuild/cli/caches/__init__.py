"""Commands about caches: the one of this machine, and remote ones."""
