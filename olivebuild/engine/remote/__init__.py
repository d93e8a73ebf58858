"""Remote caches of a build."""
